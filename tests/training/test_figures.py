from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from elir_deploy.training import figures
from elir_deploy.training.evaluation import Shown
from elir_deploy.training.figures import CurvePoint, Panel
from tests.training.small import photo
from tests.training.synthetic import trace

GAP, CAPTION, HEADER = 8, 24, 24


def panel_of(sheet: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    top = HEADER + row * (side + CAPTION + GAP)
    left = GAP + column * (side + GAP)
    return sheet[top : top + side, left : left + side]


def test_panels_are_not_resampled() -> None:
    pictures = [[photo(10 * row + column, 64, 64) for column in range(3)] for row in range(2)]
    grid = figures.panel_grid([[Panel(p, "x") for p in row] for row in pictures], "abc")
    assert grid.dtype == np.uint8
    assert grid.shape == (HEADER + 2 * (64 + CAPTION + GAP), GAP + 3 * (64 + GAP), 3)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(panel_of(grid, row, column, 64), pictures[row][column])
    assert (grid[:HEADER] < 128).any()  # the titles
    assert (grid[HEADER + 64 : HEADER + 64 + CAPTION] < 128).any()  # the captions


def test_large_panels_are_scaled_down() -> None:
    grid = figures.panel_grid([[Panel(np.full((512, 512, 3), 77, np.uint8))]], ["a"])
    assert grid.shape[1] == 256 + 2 * GAP
    assert (panel_of(grid, 0, 0, 256)[4:-4, 4:-4] == 77).all()


def shown(**changes) -> Shown:
    truth = photo(0, 64, 64)
    return replace(Shown("a.png", truth // 2, truth // 3, truth // 4, truth), **changes)


@pytest.mark.parametrize("coarse", [True, False])
def test_the_contact_sheet(coarse: bool) -> None:
    item = shown() if coarse else shown(coarse=None)
    sheet = figures.contact_sheet([item, item])
    pictures = [item.input, *([item.coarse] if coarse else []), item.restored, item.truth]
    assert sheet.shape[1] == GAP + len(pictures) * (64 + GAP)
    for column, picture in enumerate(pictures):
        np.testing.assert_array_equal(panel_of(sheet, 1, column, 64), picture)


def test_names_of_images_are_not_interpreted(recwarn) -> None:
    figures.contact_sheet([shown(name=r"$\frac{ \x1b[31m 写真 _^" + "a" * 200)])
    assert not recwarn.list


def test_the_strip_has_every_step() -> None:
    way = trace(steps=3)
    strip = figures.steps_strip([way])
    pictures = [way.input, way.coarse, *way.pictures, way.truth]
    assert strip.shape[1] == GAP + 7 * (64 + GAP)
    for column, picture in enumerate(pictures):
        np.testing.assert_array_equal(panel_of(strip, 0, column, 64), picture)


def test_a_long_path_is_thinned_out_between_its_ends() -> None:
    way = trace(steps=100)
    strip = figures.steps_strip([way])
    assert strip.shape[1] == GAP + (12 + 1 + 3) * (64 + GAP)
    np.testing.assert_array_equal(panel_of(strip, 0, 2, 64), way.pictures[0])
    np.testing.assert_array_equal(panel_of(strip, 0, 14, 64), way.pictures[100])


def test_a_curve_moves_with_its_points() -> None:
    points = [CurvePoint("M = 1", 20, 5), CurvePoint("M = 3", 21, 4.5), CurvePoint("M = 10", 19, 4)]
    titles = {"title": "t", "x_title": "PSNR dB", "y_title": "NIQE"}
    drawn = figures.curve(points, **titles)
    assert drawn.shape == (560, 720, 3)
    blue = (drawn[:, :, 2] > 150) & (drawn[:, :, 0] < 80)
    assert blue.sum() > 300
    assert not np.array_equal(drawn, figures.curve(points[:2], **titles))


# Trajectories ---------------------------------------------------------------------------------


def test_the_channels_that_move_most_are_selected() -> None:
    way = trace()
    paths = figures.select_paths(way)
    assert paths.channels == (3, 1)
    assert paths.colours == (0, 1)
    assert paths.latent.shape == (4, 8, 2)
    assert paths.pixel.shape == (4, 8, 2)
    assert len({tuple(position) for position in paths.positions}) == 8
    for place, (row, column) in enumerate(paths.positions):
        np.testing.assert_array_equal(paths.latent[:, place, 0], way.latents[:, 3, row, column])
        np.testing.assert_array_equal(paths.latent[:, place, 1], way.latents[:, 1, row, column])
        np.testing.assert_array_equal(
            paths.latent_truth[place, 1], way.truth_latent[1, row, column]
        )
        pixel = way.truth[8 * row + 4, 8 * column + 4]
        np.testing.assert_array_equal(paths.pixel_truth[place], pixel[:2])


def test_positions_reach_from_the_median_to_the_most_moved() -> None:
    way = trace()
    moved = np.abs(way.latents[-1] - way.latents[0])[[1, 3]].sum(axis=0)
    picked = [moved[row, column] for row, column in figures.select_paths(way).positions]
    assert max(picked) == moved.max()
    assert min(picked) >= np.median(moved) - 1e-6


def test_a_latent_with_fewer_positions() -> None:
    assert figures.select_paths(trace(side=16)).latent.shape == (4, 2, 2)


def test_straightness() -> None:
    line = np.linspace(0, 1, 5)[:, None, None] * np.array([[3.0, 4.0], [1.0, 0.0]])
    assert figures.straightness(line) == pytest.approx(1)
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])[:, None, :]
    assert figures.straightness(corner) == pytest.approx(np.sqrt(2) / 2)
    assert figures.straightness(np.zeros((3, 2, 2))) is None
    paths = figures.select_paths(trace())
    assert figures.straightness(paths.latent) == pytest.approx(1)
    assert figures.straightness(paths.pixel) < 0.95


def test_trajectories_have_two_panels_an_image() -> None:
    one, two = figures.trajectories([trace()]), figures.trajectories([trace(), trace("b$.png")])
    assert one.shape == (480, 1120, 3)
    assert two.shape == (960, 1120, 3)
    for half in (one[:, :560], one[:, 560:]):
        colours = {tuple(c) for c in half.reshape(-1, 3).tolist() if max(c) - min(c) > 60}
        assert len(colours) >= 8


def test_pyplot_is_not_imported() -> None:
    pyplot = "matplotlib.pyplot"
    before = pyplot in sys.modules
    figures.contact_sheet([shown()])
    assert (pyplot in sys.modules) == before
