"""metier: one small language model, excellent at one job, proven at it, running on anybody's machine.

The road is the package, one folder a step, data flowing one way::

    spec -> data -> tokenizer -> model -> train -> evaluate -> export -> run

``build.py`` drives it; ``tasks/`` says what a job can be; ``run/`` needs none of the others.
"""

__version__ = "0.1.0"
