from vqlab.host.home import expand_home


def test_the_home_folder_is_found_behind_equals_signs_and_commas(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = {
        "~/run": "/home/me/run",
        "~": "/home/me",
        "--source=~/run": "--source=/home/me/run",
        "--config=~/mine.py:groups=8": "--config=/home/me/mine.py:groups=8",
        "~/vgg16.pth,~/vgg.pth": "/home/me/vgg16.pth,/home/me/vgg.pth",
        "--config.objective.lpips_weights=a,~/b": "--config.objective.lpips_weights=a,/home/me/b",
        "--config.model.encoder.remat": "--config.model.encoder.remat",
        "/data/a~b": "/data/a~b",
        "--step=1": "--step=1",
    }
    assert expand_home(list(words)) == list(words.values())
