"""Readers of evidence: a new kind of file or metadata is one entry."""

from collections.abc import Sequence

from tta_server.onboarding.evidence import Reader, Reads
from tta_server.onboarding.readers.embedded import read_embedded
from tta_server.onboarding.readers.huggingface import read_huggingface
from tta_server.onboarding.readers.labels import read_character, read_label_file
from tta_server.onboarding.readers.mmdeploy import read_mmdeploy
from tta_server.onboarding.readers.openvino import read_openvino
from tta_server.onboarding.readers.outputs import read_outputs
from tta_server.onboarding.readers.processors import read_processor
from tta_server.onboarding.readers.roboflow import read_roboflow
from tta_server.onboarding.readers.shapes import read_shapes
from tta_server.onboarding.readers.timm import read_timm
from tta_server.onboarding.readers.torchvision_weights import read_torchvision
from tta_server.onboarding.readers.triton import read_triton
from tta_server.onboarding.readers.ultralytics import read_ultralytics, read_yolov5

READERS: Sequence[Reader] = (
    Reader("tta.yaml in the metadata", Reads.METADATA, read_embedded),
    Reader("Ultralytics' metadata", Reads.METADATA, read_ultralytics),
    Reader("YOLOv5's metadata", Reads.METADATA, read_yolov5),
    Reader("OpenVINO's model_info", Reads.METADATA, read_openvino),
    Reader("PaddleOCR's metadata", Reads.METADATA, read_character),
    Reader("timm's config.json", Reads.DOCUMENTS, read_timm),
    Reader("Hugging Face's config.json", Reads.DOCUMENTS, read_huggingface),
    Reader("Hugging Face's preprocessor_config.json", Reads.DOCUMENTS, read_processor),
    Reader("torchvision's weights", Reads.DOCUMENTS, read_torchvision),
    Reader("mmdeploy's pipeline.json", Reads.DOCUMENTS, read_mmdeploy),
    Reader("Roboflow's packages", Reads.DOCUMENTS, read_roboflow),
    Reader("Triton's config.pbtxt", Reads.DOCUMENTS, read_triton),
    Reader("a file of labels", Reads.DOCUMENTS, read_label_file),
    Reader("the input's shape", Reads.SHAPES, read_shapes),
    Reader("names and shapes of outputs", Reads.SHAPES, read_outputs),
)
"""Of those that read the same kind of evidence, the first that states a key counts."""
