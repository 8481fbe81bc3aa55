# Cross-compiles the kernels for aarch64 (Jetson) on another machine:
#
#   apt-get install g++-aarch64-linux-gnu
#   pip download --no-deps --platform manylinux2014_aarch64 --only-binary :all: nvidia-cuda-runtime
#   unzip nvidia_cuda_runtime-*.whl -d cudart
#   PI0_AARCH64_CUDART=$PWD/cudart/nvidia/cu13/lib make kernels PROCESSOR=aarch64
#
# The runtime must be of the same CUDA version as nvcc; an installed cuda-cross package is found by itself.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)

if(DEFINED ENV{PI0_AARCH64_CUDART})
  set(PI0_AARCH64_CUDART "$ENV{PI0_AARCH64_CUDART}" CACHE PATH "folder of libcudart_static.a for aarch64")
endif()
find_path(PI0_AARCH64_CUDART libcudart_static.a
  PATHS /usr/local/cuda/targets/sbsa-linux/lib /usr/local/cuda/targets/aarch64-linux/lib NO_DEFAULT_PATH)
if(NOT EXISTS "${PI0_AARCH64_CUDART}/libcudart_static.a")
  message(FATAL_ERROR "the CUDA runtime for aarch64 is missing: set PI0_AARCH64_CUDART as ${CMAKE_CURRENT_LIST_FILE} says")
endif()
# The headers are those of this machine; its libraries come second.
set(CMAKE_CUDA_FLAGS_INIT "-target-dir ${CMAKE_HOST_SYSTEM_PROCESSOR}-linux -L${PI0_AARCH64_CUDART}")
