# -DD2G_SANITIZE=address,undefined or thread. LibTorch's library is not instrumented, so
# sanitizer builds leave out everything that links it.
if(D2G_SANITIZE)
  if(D2G_TORCH)
    message(FATAL_ERROR "D2G_SANITIZE=${D2G_SANITIZE} needs -DD2G_TORCH=OFF")
  endif()
  add_compile_options(-fsanitize=${D2G_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${D2G_SANITIZE})
endif()
