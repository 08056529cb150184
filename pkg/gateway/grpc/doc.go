// Package grpc serves the operations of the daemon over gRPC: package solo.v1 of
// the tree's proto, the standard health service, and reflection.
//
// What it promises is what package rest does, in this wire's words: the rows of
// solo.Operations that name an rpc are its methods; each code has one canonical
// status, with google.rpc details that say the rest (ErrorInfo with the code,
// BadRequest, RetryInfo, and the details of the contract as a Struct); messages are
// bounded before they are parsed; streams are cursors.
//
// Who is calling: the peer of the unix socket, else "authorization", else
// "x-tenant-id" metadata, else tenant_id of a deploy.
package grpc
