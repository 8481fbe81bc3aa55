# PI0_EDGE_GENERATED: the code of messages and services, written by this system's protoc; PI0_EDGE_GENERATED_INCLUDE:
# where its headers are. It cannot be shipped: its headers demand the protobuf that they were written for.
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
set(PI0_EDGE_GENERATED_INCLUDE ${CMAKE_CURRENT_BINARY_DIR}/generated)
set(PI0_EDGE_GENERATED)
set(protos pi0_edge/protos)
set(service_root ${PI0_EDGE_ROOT})
set(message_options)
if(Protobuf_VERSION VERSION_LESS 3.15)
    # `optional` of proto3 was an experiment then, and the plugin for services does not know it. What a service calls
    # does not depend on its fields, so the plugin reads a copy without the word.
    set(message_options --experimental_allow_proto3_optional)
    set(service_root ${CMAKE_CURRENT_BINARY_DIR}/service_protos)
    foreach(name policy bridge)
        file(READ ${PI0_EDGE_ROOT}/${protos}/${name}.proto text)
        string(REGEX REPLACE "\n( *)optional " "\n\\1" text "${text}")
        file(WRITE ${service_root}/${protos}/${name}.proto "${text}")
    endforeach()
endif()

file(MAKE_DIRECTORY ${PI0_EDGE_GENERATED_INCLUDE})
foreach(name policy bridge)
    set(made ${PI0_EDGE_GENERATED_INCLUDE}/${protos}/${name})
    add_custom_command(
        OUTPUT ${made}.pb.cc ${made}.pb.h ${made}.grpc.pb.cc ${made}.grpc.pb.h
        COMMAND protobuf::protoc -I${PI0_EDGE_ROOT} ${message_options} --cpp_out=${PI0_EDGE_GENERATED_INCLUDE}
                ${protos}/${name}.proto
        COMMAND protobuf::protoc -I${service_root} --grpc_out=${PI0_EDGE_GENERATED_INCLUDE}
                --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN} ${protos}/${name}.proto
        DEPENDS ${PI0_EDGE_ROOT}/protos/${name}.proto
        VERBATIM)
    list(APPEND PI0_EDGE_GENERATED ${made}.pb.cc ${made}.grpc.pb.cc)
endforeach()
