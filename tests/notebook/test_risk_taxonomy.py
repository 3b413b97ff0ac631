"""`%%risk --taxonomy`: categories of the user's own in a cell."""

from types import SimpleNamespace

import pytest

from urisk_nb.errors import InputError
from urisk_nb.notebook import magics
from urisk_nb.risk.taxonomy import Category, Taxonomy


def test_categories_of_a_variable_or_a_file(tmp_path):
    """`--taxonomy`; a variable that is none is refused, and one that is not there is named."""
    (tmp_path / "desk.toml").write_text('[supply]\ndefinition = "parts"')
    own = Taxonomy(version="v", categories=(Category(id="sun", name="Sun", definition="x"),))
    names = {"own": own, "notes": {"AAA": "Tea sank."}, "other": 3}
    shell = SimpleNamespace(user_ns=names, user_ns_hidden={})

    def run(given):
        line = f"--no-llm --evidence notes --out table --taxonomy {given}"
        magics.run(shell, "risk", line, "AAA")
        return [name for name in shell.user_ns["table"].columns if name.startswith("r_")]

    assert run("own") == ["r_sun"]
    assert run(tmp_path / "desk.toml") == ["r_supply"]
    with pytest.raises(InputError, match="--taxonomy is 3"):
        run("other")
    with pytest.raises(InputError, match="no variable 'oen'") as caught:
        run("oen")
    assert "own" in caught.value.fix
