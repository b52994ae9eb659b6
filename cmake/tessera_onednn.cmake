# oneDNN: the one that DNNL_ROOT names, else the pinned one that tools/fetch_wheels.py brought, else the system's. By header and library,
# because the packaged CMake files of Debian ask for OpenCL. Nothing is cached but DNNL_ROOT: a pinned one that comes later is taken.
set(DNNL_ROOT "" CACHE PATH "oneDNN to build with, the folder of its include and lib; empty: the pinned one, or the system's")
if(NOT DNNL_ROOT AND DEFINED ENV{DNNL_ROOT})
  set_property(CACHE DNNL_ROOT PROPERTY VALUE $ENV{DNNL_ROOT})
endif()

set(onednn_pinned ${CMAKE_SOURCE_DIR}/.dependencies/onednn)
if(DNNL_ROOT)
  set(onednn_from "DNNL_ROOT")
  set(onednn_where PATHS ${DNNL_ROOT} NO_DEFAULT_PATH)
elseif(EXISTS ${onednn_pinned}/SHA256SUMS)
  set(onednn_from "pinned")
  set(onednn_where PATHS ${onednn_pinned} NO_DEFAULT_PATH)
else()
  set(onednn_from "system")
  set(onednn_where)
endif()
find_path(onednn_include oneapi/dnnl/dnnl.h ${onednn_where} PATH_SUFFIXES include NO_CACHE)
find_library(onednn_library dnnl ${onednn_where} PATH_SUFFIXES lib lib64 lib/${CMAKE_LIBRARY_ARCHITECTURE} NO_CACHE)
if(NOT onednn_include OR NOT onednn_library)
  message(FATAL_ERROR "oneDNN (${onednn_from}): there is no include/oneapi/dnnl/dnnl.h beside lib/libdnnl.so. ${DNNL_ROOT}\n"
    "tools/install_dependencies.sh brings one; -DDNNL_ROOT=DIR names another")
endif()
add_library(DNNL::dnnl UNKNOWN IMPORTED)
set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${onednn_library} INTERFACE_INCLUDE_DIRECTORIES ${onednn_include})

file(STRINGS ${onednn_include}/oneapi/dnnl/dnnl_version.h onednn_numbers REGEX "define DNNL_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
string(REGEX REPLACE "[^0-9;]+" "" onednn_numbers "${onednn_numbers}")
list(JOIN onednn_numbers "." onednn_VERSION)
message(STATUS "oneDNN: ${onednn_library} (${onednn_from})")

# tessera_install_onednn(TARGET...): installed targets find the library that they were built with. The pinned one goes with them, into a
# folder of its own: in a folder of the system's linker it would come before the system's for other programs too.
function(tessera_install_onednn)
  if(NOT onednn_from STREQUAL "pinned")
    set_target_properties(${ARGN} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
    return()
  endif()
  set_property(TARGET ${ARGN} APPEND PROPERTY INSTALL_RPATH "$ORIGIN/tessera" "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/tessera")
  install(DIRECTORY ${onednn_pinned}/lib/ DESTINATION ${CMAKE_INSTALL_LIBDIR}/tessera FILES_MATCHING PATTERN "libdnnl.so.*")
  install(DIRECTORY ${onednn_pinned}/share/doc/onednn DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/tessera)
endfunction()
