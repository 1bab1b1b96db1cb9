"""The Lightning callbacks. Their code is in `callbacks/` of a checkout, and in this folder of a wheel."""

from roiseg.common.package_files import package_file

__path__ = [str(package_file("conf").with_name("callbacks"))]
