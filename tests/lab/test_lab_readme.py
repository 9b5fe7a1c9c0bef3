"""The Python example of the README, run as it is printed there, in a running overlay."""

import re
import sys
from pathlib import Path

from lab_overlay import LabOverlay

README = Path(__file__).parents[2] / "README.md"


def python_example():
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return example


def test_the_python_example_of_the_readme_works_as_printed(laboratory, tmp_path):
    with LabOverlay(tmp_path, mixes=2) as overlay:
        overlay.web.publish("index.html", b"hello")
        alice = overlay.alice
        alice.stop()
        (alice.directory / "topology.sqlite").unlink()  # as if it had never run
        bootstrap = f'[network]\nbootstrap = ["{overlay.nodes["boot"].endpoint}"]'
        settings = alice.configuration.read_text()
        alice.configuration.write_text(settings.replace("[network]", bootstrap))
        (alice.directory / "example.py").write_text(python_example())
        done = alice.host.namespace.run(
            ["sh", "-c", f"cd {alice.directory} && exec {sys.executable} example.py"]
        )
        assert "hello" in done.stdout
        assert overlay.web.clients() == {overlay.nodes["exit"].address}
