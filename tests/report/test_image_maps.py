import numpy as np

from fm_med.report.image_maps import image_maps_figure
from fm_med.report.page import Section, write_report


def test_images_and_maps_are_inside_the_page(tmp_path):
    generator = np.random.default_rng(0)
    maps = {"Attention": generator.random((2, 12, 16)), "Grad-CAM": generator.random((2, 12, 16))}
    figure = image_maps_figure(
        generator.random((2, 12, 16, 3)),
        maps,
        titles=["normal, 93 %", "target, 51 %"],
        faithfulness={"Attention": np.array([0.1, -0.2]), "Grad-CAM": np.array([0.3, 0.1])},
    )
    (panel,) = figure.panels
    assert "Attention +0.10" in panel.svg and "Grad-CAM +0.30" in panel.svg
    assert "normal, 93 %" in panel.svg and panel.svg.count("data:image/png;base64") >= 6
    assert "Attention -0.05, Grad-CAM +0.20" in panel.alt
    page = tmp_path / "index.html"
    write_report(page, title="Maps", sections=[Section("Maps", content=[figure])])
    assert "http" not in panel.svg.replace("http://www.w3.org", "")
