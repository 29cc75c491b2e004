# The kinds of targets, so that each folder's CMakeLists.txt only says what is its own.
#
#   d2g_library(NAME SOURCES a.cc ... [PUBLIC lib ...] [PRIVATE lib ...] [TORCH | SERVICE] [UNITY])
#       static library d2g_NAME with alias d2g::NAME
#   d2g_program(NAME SOURCES main.cc ... LIBS lib ... [TORCH | SERVICE] [UNITY])
#   d2g_test(NAME SOURCES a_test.cc ... LIBS lib ... [TORCH | SERVICE] [LABELS l ...] [TIMEOUT s])
#       one GoogleTest binary, one ctest entry
#   d2g_cold(target ...)
#       these are never what takes time, and CLI11's and nlohmann's functions, which every file
#       compiles anew, take long to optimise: -O1
#   d2g_pch(NAME HEADER header SOURCE source LIBS lib ...)
#       object library d2g_NAME_pch, which holds a precompiled header that others reuse
#
# Includes are written from the repository's root ("services/store/keys.h"). TORCH compiles with
# LibTorch and its shared precompiled header; only model/, what computes with it and their tests may
# say it. SERVICE compiles with the shared precompiled header of Abseil, Protobuf, gRPC and our
# messages: for what includes these, and no LibTorch. Sources include what they use all the same:
# all must build with -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON. UNITY compiles eight sources as one where
# D2G_UNITY: for small files that all include the same costly header. Their unnamed namespaces become
# one.

function(d2g_pch name)
  cmake_parse_arguments(arg "" "HEADER;SOURCE" "LIBS" ${ARGN})
  add_library(d2g_${name}_pch OBJECT ${arg_SOURCE})
  target_link_libraries(d2g_${name}_pch PRIVATE ${arg_LIBS})
  target_include_directories(d2g_${name}_pch PRIVATE ${PROJECT_SOURCE_DIR})
  d2g_warnings(d2g_${name}_pch)
  target_precompile_headers(d2g_${name}_pch PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${arg_HEADER}>)
endfunction()

# _d2g_common(target TORCH SERVICE): what all kinds have; the last two are truth values.
function(_d2g_common target torch service)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  d2g_warnings(${target})
  if(torch)
    target_link_libraries(${target} PRIVATE d2g::torch)
    set(pch d2g_torch_pch)
  elseif(service)
    set(pch d2g_services_pch)
  else()
    return()
  endif()
  # The header was compiled with a library's -fPIC; CMake would give programs -fPIE and gcc would
  # then refuse it.
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
  target_precompile_headers(${target} REUSE_FROM ${pch})
endfunction()

function(d2g_cold)
  foreach(target ${ARGN})
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endforeach()
endfunction()

function(_d2g_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${D2G_UNITY})
  # To gcc, an unnamed namespace that comes by #include is one in a header.
  if(D2G_UNITY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()

function(d2g_library name)
  cmake_parse_arguments(arg "TORCH;SERVICE;UNITY" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(d2g_${name} STATIC ${arg_SOURCES})
  add_library(d2g::${name} ALIAS d2g_${name})
  target_link_libraries(d2g_${name} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE})
  _d2g_common(d2g_${name} ${arg_TORCH} ${arg_SERVICE})
  if(arg_UNITY)
    _d2g_unity(d2g_${name})
  endif()
endfunction()

function(d2g_program name)
  cmake_parse_arguments(arg "TORCH;SERVICE;UNITY" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  _d2g_common(${name} ${arg_TORCH} ${arg_SERVICE})
  if(arg_UNITY)
    _d2g_unity(${name})
  endif()
endfunction()

function(d2g_test name)
  cmake_parse_arguments(arg "TORCH;SERVICE" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} GTest::gmock GTest::gtest GTest::gtest_main)
  _d2g_common(${name} ${arg_TORCH} ${arg_SERVICE})
  if(arg_TORCH)
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:d2g_seeded_torch>)
  endif()
  # A test runs for less time than a stricter optimisation of it takes.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES
    LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
    ENVIRONMENT "D2G_SOURCE_DIR=${PROJECT_SOURCE_DIR};D2G_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY};OMP_WAIT_POLICY=PASSIVE")
endfunction()

if(D2G_TESTS)
  find_package(GTest REQUIRED)
endif()
