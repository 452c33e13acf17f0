"""The ports to the services beside us, over their gRPC stubs: one file each."""
