# d2g_warnings(target): the project's warnings, for our own code only (generated code and
# dependencies' headers stay silent).
function(d2g_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wnon-virtual-dtor
                                           -Woverloaded-virtual -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Wthread-safety)
  endif()
  if(D2G_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # False positives of gcc 12 inside inlined library headers.
      target_compile_options(${target} PRIVATE -Wno-error=maybe-uninitialized
                                               -Wno-error=stringop-overflow -Wno-error=array-bounds
                                               -Wno-error=restrict)
    endif()
  endif()
endfunction()
