"""Where figures come from."""

import json
import platform

from spade_index.method.origin import origin


def test_machine_and_versions_are_told() -> None:
    found = origin(["numpy", "no-such-package"])
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["versions"]["numpy"][0].isdigit()
    assert found["versions"]["no-such-package"] is None
    assert found["machine"].endswith(" cores")
