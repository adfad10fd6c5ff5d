"""Process-wide options of the libraries that decode and resize."""

import cv2
from PIL import Image


def configure_libraries() -> None:
    """Sets process-wide options of OpenCV and Pillow: no threads, limits or messages beside our own.

    For the commands; a program that uses the package as a library keeps its own options.
    """
    Image.MAX_IMAGE_PIXELS = None
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
