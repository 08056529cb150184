package solo

import "reflect"

// Permission is what an operation needs on its resource (contract 4c).
type Permission string

// The permissions. PermissionNone marks an operation that needs no proof;
// PermissionOperator one that only the operator may ask for.
const (
	PermissionNone     Permission = ""
	PermissionRead     Permission = "read"
	PermissionDeploy   Permission = "deploy"
	PermissionKill     Permission = "kill"
	PermissionInvoke   Permission = "invoke"
	PermissionWrite    Permission = "write"
	PermissionGrant    Permission = "grant"
	PermissionOperator Permission = "operator"
)

// Operation is one use case of the daemon, as every wire offers it.
type Operation struct {
	// Name is the key of the row: rest, grpc and mcp bind their handlers to it.
	Name string
	// Method and Path are the REST route, in echo's spelling.
	Method, Path string
	// RPC is the method of solo.v1.Solo that offers the same, "" where none does.
	RPC string
	// Permission and Resource are what a capability must allow; {id} in the
	// resource is the service of the call.
	Permission Permission
	Resource   string
	// Request and Response are the JSON bodies, nil where there is none or where
	// the body passes through as bytes.
	Request, Response reflect.Type
	// MaxBody bounds the request's body in bytes; 0 means that a body is ignored.
	MaxBody int64
	// Streams marks an answer that goes on: SSE on REST, a stream on gRPC.
	Streams bool
	// Tool offers the operation to agents over MCP.
	Tool bool
	// Codes are the refusals of its own, beside those that every operation has.
	Codes []Code
	// Doc is one sentence for the references made from the table.
	Doc string
}

// The names of the operations.
const (
	OpDeploy       = "deploy"
	OpCheck        = "check"
	OpList         = "list"
	OpStatus       = "status"
	OpRestart      = "restart"
	OpKill         = "kill"
	OpInvoke       = "invoke"
	OpEvents       = "events"
	OpEventsVerify = "events verify"
	OpLogs         = "logs"
	OpHealth       = "health"
	OpLive         = "health live"
	OpReady        = "health ready"
	OpShutdown     = "shutdown"
)

var operations = []Operation{
	{Name: OpDeploy, Method: "POST", Path: "/services", RPC: "Deploy", Permission: PermissionDeploy, Resource: "services/{id}",
		Request: reflect.TypeFor[DeployRequest](), Response: reflect.TypeFor[Service](), MaxBody: MaxDeployBody, Tool: true,
		Codes: []Code{CodeConflict, CodeCompileFailed, CodeTestsFailed, CodePolicyViolation, CodeStartFailed, CodeQuotaExceeded},
		Doc:   "Compile a source, test it, start it confined and supervised, and answer once it has proved that it serves."},
	{Name: OpCheck, Method: "POST", Path: "/services/:id/check", RPC: "Check", Permission: PermissionDeploy, Resource: "services/{id}",
		Request: reflect.TypeFor[DeployRequest](), Response: reflect.TypeFor[CheckResult](), MaxBody: MaxDeployBody, Tool: true,
		Doc: "Compile, vet and test a source and say what a deploy of it would change; changes nothing."},
	{Name: OpList, Method: "GET", Path: "/services", RPC: "List", Permission: PermissionRead, Resource: "services/{id}",
		Response: reflect.TypeFor[ServiceList](), Tool: true,
		Doc: "List the services, oldest first."},
	{Name: OpStatus, Method: "GET", Path: "/services/:id", RPC: "Status", Permission: PermissionRead, Resource: "services/{id}",
		Response: reflect.TypeFor[Service](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Show one service."},
	{Name: OpRestart, Method: "POST", Path: "/services/:id/restart", RPC: "Restart", Permission: PermissionDeploy, Resource: "services/{id}",
		Response: reflect.TypeFor[Service](), Tool: true, Codes: []Code{CodeNotFound, CodeStartFailed},
		Doc: "Restart a service at once, with a fresh budget and backoff."},
	{Name: OpKill, Method: "DELETE", Path: "/services/:id", RPC: "Kill", Permission: PermissionKill, Resource: "services/{id}",
		Response: reflect.TypeFor[KillResult](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Stop a service; answers once its processes are reaped."},
	{Name: OpInvoke, Method: "POST", Path: "/services/:id/invoke/:method", RPC: "Invoke", Permission: PermissionInvoke, Resource: "services/{id}",
		MaxBody: MaxInvokeBody, Tool: true,
		Codes: []Code{CodeNotFound, CodeServiceError, CodeNotRunning, CodeNotReady, CodeUnavailable, CodeDeadlineExceeded},
		Doc:   "Call a method of a service; body and content type pass through both ways."},
	{Name: OpEvents, Method: "GET", Path: "/events", RPC: "Watch", Permission: PermissionRead, Resource: "events",
		Response: reflect.TypeFor[EventPage](), Streams: true, Tool: true,
		Doc: "Read or follow the event log."},
	{Name: OpEventsVerify, Method: "GET", Path: "/events/verify", Permission: PermissionRead, Resource: "events",
		Response: reflect.TypeFor[VerifyReport](),
		Doc:      "Prove the hash chain of the whole log."},
	{Name: OpLogs, Method: "GET", Path: "/logs", RPC: "Logs", Permission: PermissionRead, Resource: "logs/{id}",
		Response: reflect.TypeFor[LogPage](), Streams: true, Tool: true,
		Doc: "Read or follow what services wrote."},
	{Name: OpHealth, Method: "GET", Path: "/health", RPC: "Health", Response: reflect.TypeFor[Health](),
		Doc: "Say how the daemon is; details only for a caller with a proof."},
	{Name: OpLive, Method: "GET", Path: "/health/live", Response: reflect.TypeFor[Health](),
		Doc: "200 while the daemon answers at all."},
	{Name: OpReady, Method: "GET", Path: "/health/ready", Response: reflect.TypeFor[Health](),
		Doc: "200 once every service that should run is ready or has failed its first start."},
	{Name: OpShutdown, Method: "POST", Path: "/shutdown", RPC: "Shutdown", Permission: PermissionOperator,
		Response: reflect.TypeFor[ShutdownResult](),
		Doc:      "Stop the daemon as SIGTERM does."},
}

// Operations returns the table, one row a use case.
func Operations() []Operation { return append([]Operation(nil), operations...) }
