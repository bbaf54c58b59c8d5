"""Names that a user writes as "module:Class": found, or refused in words that say which part is wrong."""

import pytest

from clipbench.optim.names import NoSuchModule, NoSuchName, NotImportable, import_object, nearest


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text("class Smooth: pass\n")
    (tmp_path / "mine_folder").mkdir()
    (tmp_path / "mine_folder" / "deep.py").write_text("class Deep: pass\n")
    (tmp_path / "mine_needy.py").write_text("import mine_missing\n")
    (tmp_path / "mine_raising.py").write_text("raise ValueError('of its own')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mine_alone:Smooth", "Smooth"),
        ("mine_alone.Smooth", "Smooth"),
        ("mine_folder.deep:Deep", "Deep"),
        ("mine_folder.deep.Deep", "Deep"),
        ("torch.optim.AdamW", "AdamW"),
    ],
)
def test_both_ways_to_write_it(modules, path, name):
    assert import_object(path).__name__ == name


@pytest.mark.parametrize(
    "path", ["nowhere:Smooth", "nowhere.Smooth", "mine_folder.nowhere:Deep", "mine_alone.x:y"]
)
def test_a_module_that_is_not_there(modules, path):
    module = path.replace(":", ".").rpartition(".")[0]
    with pytest.raises(NoSuchModule, match=rf"^there is no module '{module}' in the current folder or on"):
        import_object(path)
    with pytest.raises(NoSuchModule, match=r"' anywhere\.$"):
        import_object(path, places="anywhere")


def test_a_name_that_is_not_there(modules):
    with pytest.raises(NoSuchName, match=r"^there is no 'Smoth' in mine_alone\. Did you mean 'Smooth'\?$"):
        import_object("mine_alone:Smoth")


@pytest.mark.parametrize("path", ["Smooth", ":Smooth", "mine_alone:", ".mine_alone:Smooth", ""])
def test_what_is_no_path(modules, path):
    with pytest.raises(NotImportable, match=r"names no object of a module\. Write 'module:Class'"):
        import_object(path)


def test_an_error_of_the_module_is_the_modules(modules):
    with pytest.raises(ModuleNotFoundError, match="No module named 'mine_missing'"):
        import_object("mine_needy:Smooth")
    with pytest.raises(ValueError, match=r"^of its own$") as caught:
        import_object("mine_raising:Smooth")
    assert not isinstance(caught.value, NotImportable)


def test_nearest():
    assert nearest("atuo", ["auto", "norm"]) == " Did you mean 'auto'?"
    assert nearest("zzz", ["auto", "norm"]) == ""
