"""Pictures, videos and film strips: what is to be seen in them, and the files they become."""

# MuJoCo has no type stubs, and mistakes are made on purpose here.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import mujoco
import numpy as np
import pytest
from PIL import Image

from prefrl.clips import film, scene
from prefrl.clips.camera import Camera, follow
from prefrl.clips.draw import backend, draw

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
RED = {"torso_geom": (1.0, 0.0, 0.0)}


def load(name):
    """Build a model of Gymnasium's; half_cheetah.xml would warn about its `settotalmass`."""
    spec = mujoco.MjSpec.from_file(str(ASSETS / f"{name}.xml"))
    mass = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if mass > 0:
        mujoco.mj_setTotalmass(model, mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


@pytest.fixture(scope="module")
def hopper():
    return load("hopper")


@pytest.fixture(scope="module")
def cheetah():
    return load("half_cheetah")


def stand(model, frames=1, x=0.0, up=0.0):
    qpos = np.tile(model.qpos0, (frames, 1))
    qpos[:, 0] += x
    qpos[:, 1] += up
    return qpos


def still_camera(model, frames=1, back=6.0):
    """Look along y at the place where the robot starts, from a little above."""
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return Camera(np.tile([0.0, -back, 1.5], (frames, 1)), level, 45.0)


def rays(model, qpos, **kwargs):
    return draw(model, qpos, 160, 120, using="rays", **kwargs).astype(int)


def reddish(pictures):
    return (pictures[..., 0] > 110) & (pictures[..., 1:].max(axis=-1) < 60)


def colourful(pictures):
    """The robot: everything else in these pictures is grey or a pale blue."""
    return np.ptp(pictures, axis=-1) > 75


# what is to be seen


def test_the_robot_moves_in_the_picture_when_its_position_changes(hopper):
    qpos = np.concatenate([stand(hopper), stand(hopper, x=1.0), stand(hopper, up=0.8)])
    pictures = rays(hopper, qpos, camera=still_camera(hopper, 3), highlight=RED)
    centres = [np.argwhere(reddish(picture)).mean(axis=0) for picture in pictures]
    metre = 120 / (2 * np.tan(np.radians(22.5)) * 6)
    assert centres[1] - centres[0] == pytest.approx([0, metre], abs=1.5)
    assert centres[2] - centres[0] == pytest.approx([-0.8 * metre, 0], abs=1.5)


def test_a_joint_moves_only_what_hangs_on_it(hopper):
    bent = stand(hopper)
    bent[:, 5] = -0.7  # the foot
    camera = still_camera(hopper)
    one, other = (
        rays(hopper, qpos, camera=camera, highlight=RED)[0] for qpos in (stand(hopper), bent)
    )
    assert np.array_equal(reddish(one), reddish(other))
    assert (one != other).any(axis=-1).sum() > 20


def test_the_floor_passes_by_below_a_robot_that_runs(hopper):
    start, half, whole = (
        rays(hopper, stand(hopper, x=x))[0] for x in (0.0, 0.5, 1.0)
    )  # squares are half a metre wide, and the camera follows
    assert np.array_equal(colourful(start), colourful(half))
    assert (np.abs(start - half).max(axis=-1) > 20).mean() > 0.15
    assert np.abs(start - whole).max() <= 3


def test_a_jump_lifts_the_robot_off_its_shadow(hopper):
    camera = still_camera(hopper)
    empty = rays(hopper, stand(hopper, x=1000.0), camera=camera)[0]
    gaps = []
    for up in (0.0, 0.5, 1.0):
        picture = rays(hopper, stand(hopper, up=up), camera=camera)[0]
        robot = np.argwhere(colourful(picture))[:, 0]
        darker = (empty - picture).min(axis=-1) > 12
        shadow = np.argwhere(darker & (np.ptp(picture, axis=-1) < 50))
        shadow = shadow[shadow[:, 0] > 80]  # on the floor near the robot, not its dark torso
        assert len(shadow) > 10
        gaps.append(shadow[:, 0].mean() - robot.max())
    assert gaps[0] < 4
    assert gaps[1] > gaps[0] + 8
    assert gaps[2] > gaps[1] + 8


def test_parts_can_be_told_apart(hopper, cheetah):
    for model in (hopper, cheetah):
        dressed = scene.dress(model)
        geoms = scene.moving_geoms(model)
        bodies, first = np.unique(model.geom_bodyid[geoms], return_index=True)
        colours = dressed.geom_rgba[geoms[first], :3]
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
        assert apart[~np.eye(len(bodies), dtype=bool)].min() > 0.1


def test_a_model_with_colours_of_its_own_keeps_them():
    colours = ["1 0 0 1", "0 1 0 1", "0 0 1 1"]
    balls = "".join(
        f"<body pos='{i} 0 1'><freejoint/><geom size='.3' rgba='{c}'/></body>"
        for i, c in enumerate(colours)
    )
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{balls}</worldbody></mujoco>")
    assert np.array_equal(scene.dress(model).geom_rgba, model.geom_rgba)
    (picture,) = rays(model, model.qpos0[None])
    for channel in range(3):
        assert ((picture.argmax(axis=-1) == channel) & colourful(picture)).sum() > 50


@pytest.mark.parametrize("using", [None, "rays"])
def test_drawing_leaves_the_model_as_it_was(using):
    model = load("hopper")
    before = model.geom_rgba.copy(), model.geom_matid.copy(), model.vis.quality.offsamples
    draw(model, stand(model), 32, 24, highlight=RED, using=using)
    assert np.array_equal(model.geom_rgba, before[0])
    assert np.array_equal(model.geom_matid, before[1])
    assert model.vis.quality.offsamples == before[2]


def test_mocap_bodies_move():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom type='plane' size='1 1 1'/><body mocap='true'>"
        "<geom size='.3' rgba='1 0 0 1' name='torso_geom'/></body></worldbody></mujoco>"
    )
    mocap = np.array([[[0.0, 0, 1, 1, 0, 0, 0]], [[1.0, 0, 1, 1, 0, 0, 0]]])
    camera = still_camera(model, 2)
    pictures = rays(model, np.zeros((2, 0)), mocap=mocap, camera=camera, highlight=RED)
    one, other = (np.argwhere(reddish(picture)).mean(axis=0) for picture in pictures)
    assert other[1] > one[1] + 10


# the camera


def in_frame(model, camera, clip, aspect):
    """The corners of all moving parts in every frame, in units of half the picture."""
    corners = scene.geom_corners(model, scene.moving_geoms(model), clip.positions, clip.rotations)
    right, up, back = np.moveaxis(
        (corners - camera.positions[:, None, None]) @ camera.rotation, -1, 0
    )
    return right / (-back * camera.slope * aspect), up / (-back * camera.slope)


@pytest.mark.parametrize("name", ["hopper", "half_cheetah", "ant", "reacher", "swimmer"])
def test_the_whole_robot_stays_in_the_picture(name):
    model, noise = load(name), np.random.default_rng(0)
    qpos = np.tile(model.qpos0, (80, 1)) + noise.normal(0, 0.4, (80, model.nq))
    if name != "reacher":
        qpos[:, 0] += np.linspace(0, 12, 80) ** 1.3
        qpos[:, 1 if name in ("hopper", "half_cheetah") else 2] += (
            3 * np.sin(np.arange(80) / 9) ** 2
        )
    clip = scene.poses(model, qpos)
    for aspect in (4 / 3, 1.0, 0.5):
        camera = follow(model, clip, aspect)
        for positions in in_frame(model, camera, clip, aspect):
            assert np.abs(positions).max() < 0.95
        assert np.ptp(camera.positions[:, 2]) == 0


def test_the_camera_keeps_pace_with_a_steady_run_and_ignores_a_jump(cheetah):
    qpos = stand(cheetah, 60, up=np.sin(np.linspace(0, np.pi, 60)))
    qpos[:, 0] = np.linspace(0, 20, 60)
    clip = scene.poses(cheetah, qpos)
    camera = follow(cheetah, clip)
    gap = camera.positions[:, 0] - clip.centres[:, 1, 0]
    assert np.ptp(gap) < 1e-6
    assert np.ptp(camera.positions[:, 1:], axis=0) == pytest.approx([0, 0])


def test_clips_that_fit_share_one_framing(hopper):
    one, other = (follow(hopper, scene.poses(hopper, stand(hopper, 5, up=up))) for up in (0.0, 0.1))
    assert np.array_equal(one.positions, other.positions)


# mistakes


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"qpos": np.zeros((2, 5))}, r"\[frame, 6\]"),
        ({"qpos": np.zeros((0, 6))}, "at least one frame"),
        ({"qpos": np.full((2, 6), np.nan)}, "not finite"),
        ({"mocap": np.zeros((2, 1, 7))}, r"\[1, 0, 7\]"),
        ({"highlight": {"tail": (1, 0, 0)}}, "'tail'.*'torso_geom'"),
        ({"using": "crayons"}, "'crayons'.*'rays'"),
        ({"width": 0}, "0 x 24"),
        ({"camera": Camera(np.zeros((3, 3)), np.eye(3), 45.0)}, "3 positions for 1"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(hopper, kwargs, words):
    given = {"qpos": stand(hopper), "width": 32, "height": 24, "using": "rays"} | kwargs
    with pytest.raises(ValueError, match=words):
        draw(hopper, **given)


# OpenGL or not


def test_opengl_and_rays_give_nearly_the_same_picture(cheetah):
    if backend() == "rays":
        pytest.skip("no OpenGL here")
    qpos = stand(cheetah, 2)
    one, other = (draw(cheetah, qpos, using=kind).astype(int) for kind in (backend(), "rays"))
    assert np.abs(one - other).mean() < 1
    assert (np.abs(one - other).max(axis=-1) > 60).mean() < 0.005


def test_the_environment_decides_about_opengl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert backend() == "rays"
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    with pytest.raises(ValueError, match="crayons"):
        backend()


def test_a_machine_without_opengl_gets_rays_and_hears_nothing(tmp_path):
    code = (
        "import mujoco\n"
        "from prefrl.clips.draw import backend, draw\n"
        "model = mujoco.MjModel.from_xml_string("
        "\"<mujoco><worldbody><geom size='1'/></worldbody></mujoco>\")\n"
        "print(backend(), draw(model, [[]], 32, 24).shape)\n"
    )
    bare = {"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none"), "PYTHONWARNINGS": "error"}
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"} | bare
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("rays (1, 24, 32, 3)\n", "")


# times


@pytest.mark.parametrize(
    ("steps", "dt", "fps", "speed", "expected"),
    [
        (10, 0.1, 10, 1, list(range(10))),
        (125, 0.008, 25, 1, list(range(0, 125, 5))),
        (4, 0.1, 20, 1, [0, 0, 1, 1, 2, 2, 3, 3]),
        (10, 0.1, 10, 2, [0, 2, 4, 6, 8]),
        (3, 0.1, 10, 0.5, [0, 0, 1, 1, 2, 2]),
        (1, 0.001, 10, 1, [0]),
    ],
)
def test_a_video_plays_in_real_time(steps, dt, fps, speed, expected):
    assert film.frame_steps(steps, dt, fps, speed).tolist() == expected


@pytest.mark.parametrize(("dt", "fps"), [(0.008, 25), (0.05, 20), (0.01, 25), (0.1, 10), (1, 1)])
def test_an_even_rate_shows_every_nth_step(dt, fps):
    assert film.even_fps(dt) == pytest.approx(fps)
    steps = film.frame_steps(1000, dt, film.even_fps(dt))
    assert len(np.unique(np.diff(steps))) == 1


@pytest.mark.parametrize("change", [{"steps": 0}, {"dt": 0.0}, {"fps": -1.0}, {"speed": np.nan}])
def test_impossible_times_are_refused(change):
    with pytest.raises(ValueError, match="positive numbers"):
        film.frame_steps(**({"steps": 5, "dt": 0.1, "fps": 10.0, "speed": 1.0} | change))


# files


def moving_bar(frames, height=48, width=64):
    """A white bar that moves right by two pixels a frame on dark green."""
    pictures = np.full((frames, height, width, 3), (10, 60, 10), np.uint8)
    for i, picture in enumerate(pictures):
        picture[:, 2 * i : 2 * i + 6] = 255
    return pictures


def read_mp4(path, height, width):
    """Let ffmpeg decode a video: its frames, and what it says about the file."""
    ffmpeg = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    done = subprocess.run(ffmpeg, capture_output=True, timeout=60, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return frames.astype(int), done.stderr.decode()


def test_an_mp4_can_be_read_back(tmp_path):
    frames = moving_bar(20)
    path = film.write_video(frames, tmp_path / "new" / "a.mp4", fps=12.5)
    seen, details = read_mp4(path, 48, 64)
    assert seen.shape == frames.shape
    assert np.abs(seen - frames).mean() < 8
    for words in ("h264", "yuv420p", "64x48", "12.50 fps"):
        assert words in details
    assert list(path.parent.iterdir()) == [path]


def test_an_mp4_of_odd_size_is_widened_by_one(tmp_path):
    frames = moving_bar(3, 47, 63)
    seen, _ = read_mp4(film.write_video(frames, tmp_path / "a.mp4", fps=10), 48, 64)
    assert seen.shape == (3, 48, 64, 3)


def test_a_gif_loops_for_ever_at_the_right_speed(tmp_path):
    frames = moving_bar(24)
    film.write_video(frames, tmp_path / "a.gif", fps=30)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.size) == (24, 0, (64, 48))
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            assert np.abs(np.asarray(gif.convert("RGB"), int) - frames[i]).max() <= 8
    assert sum(durations) == pytest.approx(800, abs=10)
    assert min(durations) >= 20


def test_a_gif_is_not_faster_than_browsers_play(tmp_path):
    film.write_video(moving_bar(24), tmp_path / "a.gif", fps=100)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (12, 20)


def test_four_seconds_of_gif_stay_small_and_keep_the_robots_colours(cheetah, tmp_path):
    qpos = stand(cheetah, 100)
    qpos[:, 0] = np.linspace(0, 16, 100)
    frames = draw(cheetah, qpos, 320, 240, using="rays")
    path = film.write_video(frames, tmp_path / "a.gif", fps=25)
    assert path.stat().st_size < 3e6
    with Image.open(path) as gif:
        gif.seek(60)
        shown = np.asarray(gif.convert("RGB"), int)
    robot = colourful(frames[60].astype(int))
    assert robot.sum() > 500
    assert np.abs(shown - frames[60])[robot].mean() < 12


@pytest.mark.parametrize("name", ["a.avi", "a", "a.png"])
def test_an_unknown_kind_of_video_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"'{name}'.*\.mp4 or \.gif"):
        film.write_video(moving_bar(2), tmp_path / name, fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3))])
def test_frames_that_are_none_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match=r"uint8 of shape \[frame, height, width, 3\]"):
        film.write_video(frames, tmp_path / "a.gif", fps=10)
    with pytest.raises(ValueError, match="fps is 0"):
        film.write_video(moving_bar(2), tmp_path / "a.gif", fps=0)


def test_whoever_is_killed_leaves_the_old_file(tmp_path):
    path = film.write_video(moving_bar(4), tmp_path / "a.gif", fps=10)
    before = path.read_bytes()
    code = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        "from prefrl.clips import film\n"
        "def half(frames, path, fps):\n"
        "    path.write_bytes(b'GIF89a')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "film._write_gif = half\n"
        "film.write_video(np.zeros((2, 8, 8, 3), np.uint8), sys.argv[1], 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = film.write_video(moving_bar(4), tmp_path / "a.gif", fps=10)
    before = path.read_bytes()

    def fail(frames, path, fps):
        path.write_bytes(b"GIF89a")
        raise OSError("disk full")

    monkeypatch.setattr(film, "_write_gif", fail)
    with pytest.raises(OSError, match="disk full"):
        film.write_video(moving_bar(4), path, fps=10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_is_written_as_it_is(tmp_path):
    (picture,) = moving_bar(1)
    with Image.open(film.write_picture(picture, tmp_path / "a.png")) as seen:
        assert np.array_equal(np.asarray(seen), picture)
    with pytest.raises(ValueError, match=r"'a\.jpg'.*\.png"):
        film.write_picture(picture, tmp_path / "a.jpg")


# strips and words


def test_a_film_strip_shows_frames_in_their_order():
    frames = np.arange(0, 200, 10, dtype=np.uint8)[:, None, None, None]
    frames = np.broadcast_to(frames, (20, 60, 80, 3))
    strip = film.film_strip(frames, 8, 4, fps=10)
    assert strip.shape == (2 * 60 + 2, 4 * 80 + 3 * 2, 3)
    shown = [int(strip[5 + 62 * (i // 4), 40 + 82 * (i % 4), 0]) for i in range(8)]
    assert shown == [10 * round(19 * i / 7) for i in range(8)]
    assert film.film_strip(frames, 8).shape == (60, 8 * 80 + 7 * 2, 3)
    picked = film.film_strip(frames, indices=[3, -1])
    assert picked.shape == (60, 162, 3)
    assert (int(picked[5, 40, 0]), int(picked[5, 122, 0])) == (30, 190)


def test_a_short_clip_gives_a_short_strip_and_a_wrong_index_none():
    frames = moving_bar(3)
    assert film.film_strip(frames, 8).shape[1] == 3 * 64 + 4
    for wrong in ({"indices": [3]}, {"indices": []}, {"count": 0}):
        with pytest.raises(ValueError, match="from 3"):
            film.film_strip(frames, **wrong)


def test_each_frame_of_a_strip_bears_its_own_stamp():
    frames = np.full((2, 60, 80, 3), 128, np.uint8)
    strip = film.film_strip(frames, fps=10).astype(int)
    stamps = strip[30:, :80], strip[30:, 82:]
    assert all((stamp.max() > 200) and (stamp.min() < 80) for stamp in stamps)
    assert (stamps[0] != stamps[1]).any()
    assert (strip[:25, :80] == 128).all()


def test_words_stand_at_the_top_left_and_leave_the_frames_given_alone():
    frames = np.full((3, 120, 160, 3), 128, np.uint8)
    shown = film.overlay(frames, ["", "clean flips: 1", "clean flips: 2"]).astype(int)
    assert (frames == 128).all()
    assert (shown[0] == 128).all()
    assert shown[1, :40].max() > 240
    assert (shown[1:, 40:] == 128).all()
    assert (shown[1] != shown[2]).any()
    assert film.overlay(np.zeros((1, 8, 8, 3), np.uint8), "far too long").shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match=r"2 texts.*3 frames"):
        film.overlay(frames, ["a", "b"])
