from workers.images.volume import Volume
from workers.images.resample import HeadFrame
def check_head(volume: Volume, frame: HeadFrame) -> None:
    return
