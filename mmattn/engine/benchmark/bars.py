"""What we set out to reach: ratios and memory beside mmseg on the CPU, times on an H200. Data alone."""

from dataclasses import dataclass

MAP = (64, 128)  # of a 512 x 1024 image
LARGE = (128, 256)  # of a whole 1024 x 2048 frame


@dataclass(frozen=True)
class Bar:
    """Of one item in one mode.

    Attributes:
        ratio: mmseg's time over ours, at least.
        share: Our memory over mmseg's, at most.
        mib: Our memory in MiB, at most.
    """

    ratio: float | None = None
    share: float | None = None
    mib: float | None = None


# (item, mode, rows and columns of the map) -> bar; batch 1, float32
BARS: dict[tuple[str, str, tuple[int, int]], Bar] = {
    ("pam", "eval", MAP): Bar(1.25, share=1 / 8),
    ("pam", "train", MAP): Bar(1.1, share=1 / 4),
    ("pam", "eval", LARGE): Bar(1.5, mib=250),
    ("pam", "train", LARGE): Bar(mib=500),
    ("non_local", "eval", MAP): Bar(1.45, share=1 / 6),
    ("non_local", "train", MAP): Bar(1.1, share=1 / 4),
    ("criss_cross", "eval", MAP): Bar(2.0),
    ("criss_cross", "train", MAP): Bar(1.3),
    ("cam", "eval", MAP): Bar(1.2),
    ("cam", "train", MAP): Bar(1.1),
    ("afnb", "eval", MAP): Bar(1.75),
    ("afnb", "train", MAP): Bar(1.7),
    ("apnb", "eval", MAP): Bar(2.2),
    ("apnb", "train", MAP): Bar(2.2),
    ("ocr", "eval", MAP): Bar(1.25),
    ("ocr", "train", MAP): Bar(1.25),
    ("gc", "eval", MAP): Bar(2.2),
    ("gc", "train", MAP): Bar(2.8),
    ("psa", "eval", MAP): Bar(2.6),
    ("psa", "train", MAP): Bar(1.8),
    ("upsample_argmax", "eval", LARGE): Bar(8.0),
    ("iou", "eval", LARGE): Bar(10.0),
    ("loss", "train", MAP): Bar(share=1 / 10),
    ("loading_png", "load", LARGE): Bar(1.3),
    ("loading_cache", "load", LARGE): Bar(3.5),
    ("danet_r50", "bf16", MAP): Bar(2.2),
    ("danet_r50", "compile", MAP): Bar(2.35),
    ("ccnet_test", "plain", LARGE): Bar(1.0),
    ("ccnet_test", "fast", LARGE): Bar(2.5),
}


@dataclass(frozen=True)
class Aim:
    """Of one item on one H200, bfloat16, one image. Reasoned from arithmetic and traffic, not measured.

    Attributes:
        floor: Milliseconds below which the hardware does not go.
        ms: What we aim at.
        mmseg: What mmseg under autocast is estimated to take.
        rate: Images per second aimed at, instead of milliseconds.
        gb: GB of memory aimed at, instead.
    """

    floor: float | None = None
    ms: float | None = None
    mmseg: float | None = None
    rate: float | None = None
    gb: float | None = None


# (item, mode, rows and columns of the map) -> aim
AIMS: dict[tuple[str, str, tuple[int, int]], Aim] = {
    ("pam", "eval", MAP): Aim(0.10, 0.18, 0.5),
    ("pam", "eval", LARGE): Aim(1.6, 2.7, 8.0),
    ("pam", "train", MAP): Aim(0.30, 0.65, 1.3),
    ("pam", "train", LARGE): Aim(gb=0.2),
    ("criss_cross", "eval", MAP): Aim(0.015, 0.03, 0.125),
    ("gc", "eval", MAP): Aim(0.006, 0.02, 0.05),
    ("afnb", "eval", MAP): Aim(0.11, 0.2, 0.35),
    ("psa", "eval", MAP): Aim(0.04, 0.15, 0.5),
    ("classes_and_counts", "eval", LARGE): Aim(0.005, 0.04, 0.5),
    ("danet", "train", MAP): Aim(rate=110.0),
    ("danet", "eval", LARGE): Aim(5.6, 12.0, 46.0),
}
