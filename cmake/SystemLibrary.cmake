# d2g_system_library(name library header): an imported target for a library whose package brings
# no CMake file, or one that asks for the development packages of its own dependencies.
function(d2g_system_library name library header)
  find_library(D2G_${name}_LIBRARY ${library} REQUIRED)
  find_path(D2G_${name}_INCLUDE ${header} REQUIRED)
  add_library(d2g::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(d2g::${name} PROPERTIES IMPORTED_LOCATION ${D2G_${name}_LIBRARY})
endfunction()
