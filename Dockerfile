# The page of Fusion Hub on a CPU:
#     docker build -t fusion-hub . && docker run --rm -p 7860:7860 fusion-hub
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# The versions of requirements.txt; torch first, from the CPU builds, in a layer that changes of our code do not touch.
COPY requirements.txt ./
RUN pip install "$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE ./
COPY fusion_hub fusion_hub
COPY space space
COPY train/configs train/configs
RUN pip install '.[demo]' --constraint requirements.txt

RUN useradd --create-home visitor
USER visitor
WORKDIR /home/visitor

EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=10)"]
CMD ["fusion-hub", "demo", "--host", "0.0.0.0"]
