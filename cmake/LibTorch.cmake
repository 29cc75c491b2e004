# LibTorch from the PyPI wheel, unpacked by tools/libtorch.sh. The wheel's own CMake files ask for
# a CUDA toolkit even for CPU use, so its libraries are imported here by hand.
#
#   d2g::torch          tensors, autograd and c10d (with CUDA's parts when D2G_CUDA)
#   d2g_torch_pch       holds the precompiled header that every TORCH target reuses
# The version is the one that tools/requirements.txt pins.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${PROJECT_SOURCE_DIR}/tools/requirements.txt)
file(STRINGS ${PROJECT_SOURCE_DIR}/tools/requirements.txt D2G_TORCH_VERSION REGEX "^torch==")
string(REPLACE "torch==" "" D2G_TORCH_VERSION "${D2G_TORCH_VERSION}")
if(DEFINED ENV{D2G_CACHE})
  set(_cache $ENV{D2G_CACHE})
else()
  set(_cache $ENV{HOME}/.cache/d2g)
endif()
if(D2G_CUDA)
  set(_flavour cuda)
else()
  set(_flavour cpu)
endif()
set(D2G_LIBTORCH_DIR ${_cache}/libtorch-${D2G_TORCH_VERSION}-${_flavour} CACHE PATH
    "LibTorch as unpacked by tools/libtorch.sh")
if(NOT EXISTS ${D2G_LIBTORCH_DIR}/.complete)
  message(STATUS "LibTorch is not in ${D2G_LIBTORCH_DIR}: fetching it")
  execute_process(COMMAND ${PROJECT_SOURCE_DIR}/tools/libtorch.sh ${_flavour} ${D2G_LIBTORCH_DIR}
                  RESULT_VARIABLE _result)
  if(_result)
    message(FATAL_ERROR "tools/libtorch.sh ${_flavour} failed: see above, or run ./run bootstrap")
  endif()
endif()

set(_lib ${D2G_LIBTORCH_DIR}/torch/lib)
set(_nvidia ${D2G_LIBTORCH_DIR}/nvidia)
add_library(d2g_torch INTERFACE)
add_library(d2g::torch ALIAS d2g_torch)
target_include_directories(d2g_torch SYSTEM INTERFACE
  ${D2G_LIBTORCH_DIR}/torch/include ${D2G_LIBTORCH_DIR}/torch/include/torch/csrc/api/include)
target_compile_definitions(d2g_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1 USE_DISTRIBUTED USE_C10D_GLOO)
# gRPC's targets bring -pthread, which defines a macro: the shared precompiled header is refused
# unless all who use it have the flag.
target_compile_options(d2g_torch INTERFACE -pthread)
target_link_libraries(d2g_torch INTERFACE ${_lib}/libtorch_cpu.so ${_lib}/libc10.so)
target_link_options(d2g_torch INTERFACE
  -Wl,-rpath,${_lib} -Wl,-rpath-link,${_nvidia}/cu13/lib -Wl,-rpath-link,${_lib})
if(D2G_CUDA)
  target_compile_definitions(d2g_torch INTERFACE D2G_CUDA=1 USE_C10D_NCCL)
  target_include_directories(d2g_torch SYSTEM INTERFACE ${_nvidia}/nccl/include ${_nvidia}/cu13/include)
  # Most programs name none of torch_cuda's symbols: it registers itself when loaded.
  target_link_libraries(d2g_torch INTERFACE -Wl,--no-as-needed ${_lib}/libtorch_cuda.so
                                            ${_lib}/libc10_cuda.so -Wl,--as-needed)
endif()

d2g_pch(torch HEADER ${PROJECT_SOURCE_DIR}/model/torch_pch.h
        SOURCE ${PROJECT_SOURCE_DIR}/model/torch_pch.cc LIBS d2g_torch)
