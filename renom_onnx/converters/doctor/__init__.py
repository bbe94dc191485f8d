"""`doctor`: what would happen to a model, before anything runs."""

from renom_onnx.converters.doctor.examination import doctor
from renom_onnx.converters.doctor.finding import Finding
from renom_onnx.converters.doctor.report import Report

__all__ = ["Finding", "Report", "doctor"]
