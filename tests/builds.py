"""A build that tests repeat with changes, to see what is done again."""

from dataclasses import dataclass
from pathlib import Path

from metier.build import build
from metier.evaluate.verdict import Verdict
from metier.spec.load import load_job


@dataclass(frozen=True)
class Built:
    """A build of a job, and the same with changes."""

    job: Path
    run: Path

    def described(self, *changes: tuple[str, str]):
        """Return the job with some of its text replaced."""
        text = (self.job / "job.toml").read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = self.job / "changed.toml"
        path.write_text(text)
        return load_job(path)

    def again(self, *changes: tuple[str, str]) -> tuple[Verdict, set[str]]:
        """Build with changes; return the verdict and the steps that were done again."""
        before = self.done()
        verdict = build(self.described(*changes), self.run)
        return verdict, {step for step, when in self.done().items() if before.get(step) != when}

    def done(self) -> dict[str, int]:
        """Return when each step was done, without what a slow machine put aside."""
        found = (path for path in self.run.rglob("manifest.json") if path.parent.suffix != ".old")
        return {str(path.parent.relative_to(self.run)): path.stat().st_mtime_ns for path in found}
