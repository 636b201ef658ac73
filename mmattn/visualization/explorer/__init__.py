"""The explorer: one self-contained page that shows at once what the pixel under the pointer attends to.

The page holds factors, not maps, and computes each row itself. It opens from disk, without any network.

    from mmattn.visualization.explorer import render, shoot
    Path("street.html").write_text(render([{"CCNet": shoot(model, "street.png")}]))
"""

from mmattn.visualization.explorer.page import gather, render
from mmattn.visualization.explorer.shot import Shot, develop, shoot

__all__ = ["Shot", "develop", "gather", "render", "shoot"]
