# Target pi0_edge::grpc: gRPC for C++ and protobuf, as this system has them. Debian 12 and newer bring CMake packages of
# gRPC; Ubuntu 22.04 and Debian 11 only describe it to pkg-config.
if(NOT TARGET pi0_edge::grpc)
    find_package(Threads REQUIRED)
    find_package(Protobuf REQUIRED)
    find_package(gRPC CONFIG QUIET)
    add_library(pi0_edge::grpc INTERFACE IMPORTED)
    if(TARGET gRPC::grpc++)
        set(pi0_edge_grpc gRPC::grpc++)
    else()
        find_package(PkgConfig REQUIRED)
        pkg_check_modules(PI0_EDGE_GRPCPP REQUIRED IMPORTED_TARGET grpc++)
        set(pi0_edge_grpc PkgConfig::PI0_EDGE_GRPCPP)
    endif()
    set_target_properties(pi0_edge::grpc PROPERTIES
        INTERFACE_LINK_LIBRARIES "${pi0_edge_grpc};protobuf::libprotobuf;Threads::Threads")
endif()
