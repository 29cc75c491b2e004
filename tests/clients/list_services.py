"""Prints the services that a server tells by reflection, one a line, and the methods of those of d2g.

  list_services.py HOST:PORT

Needs grpcio-reflection.
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        for name in sorted(database.get_services()):
            print(name)
            if name.startswith("d2g."):
                for method in pool.FindServiceByName(name).methods:
                    print(f"  {method.name}({method.input_type.full_name})")


if __name__ == "__main__":
    main()
