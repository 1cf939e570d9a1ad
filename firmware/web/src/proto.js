// SPDX-License-Identifier: Apache-2.0
// The wire schema in the browser. hearth.binpb is the descriptor set that the build makes from
// proto/hearth/v1/hearth.proto; messages are built from it at start, so there is no generated code and no eval.
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import descriptor from "hearth.binpb";

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptor));
const ClientFrame = registry.getMessage("hearth.v1.ClientFrame");
const ServerFrame = registry.getMessage("hearth.v1.ServerFrame");

export const codec = {
    /* request id (16 bytes), name of the body, its fields -> one frame */
    encode(requestId, name, value) {
        return toBinary(ClientFrame, create(ClientFrame, { requestId, body: { case: name, value } }));
    },
    /* one frame -> {requestId, body: {case, value}} */
    decode(bytes) {
        return fromBinary(ServerFrame, bytes);
    },
};
