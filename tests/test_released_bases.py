"""Which released models are supported is decided by what they say of themselves."""

import json
import re

import pytest
from released import RELEASED
from transformers import AutoConfig

from metier.errors import ArtifactError
from metier.model.architectures import architecture_of

every_model = pytest.mark.parametrize("one", RELEASED, ids=lambda one: one.name)


@every_model
def test_a_released_configuration_becomes_its_architecture_or_is_refused_by_what_llama_cpp_lacks(one, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(one.config))
    config = AutoConfig.from_pretrained(tmp_path)
    if one.becomes:
        assert architecture_of(config, one.name).name == one.becomes
    else:
        with pytest.raises(ArtifactError, match=re.escape(one.refused)):
            architecture_of(config, one.name)
