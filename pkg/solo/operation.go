package solo

import (
	"reflect"
	"strings"
)

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
	// PermissionAny marks an operation for whoever has a proof: what it may do stands
	// in the token that it is about.
	PermissionAny Permission = "any"
)

// Operation is one use case of the daemon, as every wire offers it.
type Operation struct {
	// Name is the key of the row: rest, grpc and mcp bind their handlers to it.
	Name string
	// Method and Path are the REST route, in echo's spelling.
	Method, Path string
	// RPC is the method of solo.v1.Solo that offers the same, or SERVICE.METHOD of
	// another service of the package; "" where none does.
	RPC string
	// Permission and Resource are what a capability must allow; {id} in the
	// resource is the service, or the secret, of the call. Where the call names none it
	// needs the right to all of them, or to some where Filtered says that the answer
	// shows those alone.
	Permission Permission
	Resource   string
	Filtered   bool
	// Request and Response are the JSON bodies, nil where there is none or where
	// the body passes through as bytes.
	Request, Response reflect.Type
	// MaxBody bounds the request's body in bytes; 0 means that a body is ignored.
	MaxBody int64
	// Query are the parameters of the query, and of the headers where one is one.
	Query []Parameter
	// Media is another media type of the answer than application/json, "" for none.
	Media string
	// Streams marks an answer that goes on: SSE on REST, a stream on gRPC.
	Streams bool
	// Tool offers the operation to agents over MCP.
	Tool bool
	// Codes are the refusals of its own, beside those that every operation has.
	Codes []Code
	// Doc is one sentence for the references made from the table.
	Doc string
}

// Parameter is one value beside the body of a call.
type Parameter struct {
	Name string
	// Type is string, integer, boolean or date-time.
	Type string
	// Header tells that it is a header of the request.
	Header bool
	Doc    string
}

// MaxMCPBody bounds a message of MCP, in bytes: a source of some length, and no more
// than a model could write.
const MaxMCPBody = 4 << 20

// maxSmallBody bounds the small bodies: of a wait, of an upgrade.
const maxSmallBody = 64 << 10

// The names of the operations.
const (
	OpDeploy        = "deploy"
	OpCheck         = "check"
	OpList          = "list"
	OpStatus        = "status"
	OpRestart       = "restart"
	OpKill          = "kill"
	OpInvoke        = "invoke"
	OpEvents        = "events"
	OpEventsVerify  = "events verify"
	OpLogs          = "logs"
	OpHealth        = "health"
	OpLive          = "health live"
	OpReady         = "health ready"
	OpExplain       = "explain"
	OpCrashes       = "crashes"
	OpWait          = "wait"
	OpTree          = "tree"
	OpBackup        = "backup"
	OpUpgrade       = "upgrade"
	OpShutdown      = "shutdown"
	OpSecretsSet    = "secrets set"
	OpSecretsList   = "secrets list"
	OpSecretsGet    = "secrets get"
	OpSecretsReveal = "secrets reveal"
	OpSecretsRemove = "secrets rm"
	OpVaultUnlock   = "vault unlock"
	OpVaultRotate   = "vault rotate"
	OpCapGrant      = "cap grant"
	OpCapAttenuate  = "cap attenuate"
	OpCapVerify     = "cap verify"
	OpCapList       = "cap list"
	OpCapRevoke     = "cap revoke"
	OpMetrics       = "metrics"
	OpUsage         = "usage"
	OpOpenAPI       = "openapi"
	OpMCP           = "mcp"
	OpLLMs          = "llms.txt"
)

var operations = []Operation{
	{Name: OpDeploy, Method: "POST", Path: "/services", RPC: "Deploy", Permission: PermissionDeploy, Resource: "services/{id}",
		Request: reflect.TypeFor[DeployRequest](), Response: reflect.TypeFor[Service](), MaxBody: MaxDeployBody, Tool: true,
		Query: []Parameter{
			{Name: "Idempotency-Key", Type: "string", Header: true, Doc: "The same key within 24 h gets the first answer again."},
		},
		Codes: []Code{CodeConflict, CodeCompileFailed, CodeTestsFailed, CodePolicyViolation, CodeStartFailed, CodeQuotaExceeded},
		Doc:   "Compile a source, test it, start it confined and supervised, and answer once it has proved that it serves."},
	{Name: OpCheck, Method: "POST", Path: "/services/:id/check", RPC: "Check", Permission: PermissionDeploy, Resource: "services/{id}",
		Request: reflect.TypeFor[DeployRequest](), Response: reflect.TypeFor[CheckResult](), MaxBody: MaxDeployBody, Tool: true,
		Doc: "Compile, vet and test a source and say what a deploy of it would change; changes nothing."},
	{Name: OpList, Method: "GET", Path: "/services", RPC: "List", Permission: PermissionRead, Resource: "services/{id}", Filtered: true,
		Response: reflect.TypeFor[ServiceList](), Tool: true,
		Query: []Parameter{
			{Name: "state", Type: "string", Doc: "Only those in this state."},
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default."},
			{Name: "offset", Type: "integer", Doc: "How many to pass over."},
		},
		Doc: "List the services, oldest first."},
	{Name: OpStatus, Method: "GET", Path: "/services/:id", RPC: "Status", Permission: PermissionRead, Resource: "services/{id}",
		Response: reflect.TypeFor[Service](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Show one service."},
	{Name: OpRestart, Method: "POST", Path: "/services/:id/restart", RPC: "Restart", Permission: PermissionDeploy, Resource: "services/{id}",
		Response: reflect.TypeFor[Service](), Tool: true, Codes: []Code{CodeNotFound, CodeStartFailed},
		Doc: "Restart a service at once, with a fresh budget and backoff."},
	{Name: OpKill, Method: "DELETE", Path: "/services/:id", RPC: "Kill", Permission: PermissionKill, Resource: "services/{id}",
		Query: []Parameter{
			{Name: "timeout_ms", Type: "integer", Doc: "From the request to stop until the group is killed; the service's stop_timeout_ms by default."},
			{Name: "force", Type: "boolean", Doc: "Skip Stop and SIGTERM."},
			{Name: "purge", Type: "boolean", Doc: "Forget versions, data and logs too."},
			{Name: "Idempotency-Key", Type: "string", Header: true, Doc: "The same key within 24 h gets the first answer again."},
		},
		Response: reflect.TypeFor[KillResult](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Stop a service; answers once its processes are reaped."},
	{Name: OpInvoke, Method: "POST", Path: "/services/:id/invoke/:method", RPC: "Invoke", Permission: PermissionInvoke, Resource: "services/{id}",
		MaxBody: MaxInvokeBody, Tool: true,
		Query: []Parameter{
			{Name: "X-Timeout-Ms", Type: "integer", Header: true, Doc: "The caller's deadline: 1 to 300000, 30000 by default."},
		},
		Codes: []Code{CodeNotFound, CodeServiceError, CodeNotRunning, CodeNotReady, CodeUnavailable, CodeDeadlineExceeded},
		Doc:   "Call a method of a service; body and content type pass through both ways."},
	{Name: OpExplain, Method: "GET", Path: "/services/:id/explain", RPC: "Explain", Permission: PermissionRead, Resource: "services/{id}",
		Response: reflect.TypeFor[Explanation](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Say why a service is in its state: the chain of events, the next automatic action, the calls that would change it."},
	{Name: OpCrashes, Method: "GET", Path: "/services/:id/crashes", RPC: "Crashes", Permission: PermissionRead, Resource: "services/{id}",
		Query: []Parameter{
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default."},
			{Name: "offset", Type: "integer", Doc: "How many to pass over."},
		},
		Response: reflect.TypeFor[CrashList](), Tool: true, Codes: []Code{CodeNotFound},
		Doc: "Show the last crashes of a service, oldest first: exit, panic on its own lines, last log lines, usage before the end."},
	{Name: OpWait, Method: "POST", Path: "/wait", RPC: "Wait", Permission: PermissionRead, Resource: "services/{id}",
		Request: reflect.TypeFor[WaitRequest](), Response: reflect.TypeFor[WaitResult](), MaxBody: maxSmallBody, Tool: true,
		Codes: []Code{CodeNotFound, CodeTimeout},
		Doc:   "Wait until a service has a state or a version, an event of it happened or a line was logged."},
	{Name: OpTree, Method: "GET", Path: "/tree", RPC: "Tree", Permission: PermissionRead, Resource: "tree",
		Response: reflect.TypeFor[TreeNode](), Tool: true,
		Doc: "Show what runs as a tree: the daemon's parts in start order, then tenants with their services."},
	{Name: OpEvents, Method: "GET", Path: "/events", RPC: "Watch", Permission: PermissionRead, Resource: "events",
		Response: reflect.TypeFor[EventPage](), Streams: true, Tool: true,
		Query: []Parameter{
			{Name: "since_id", Type: "integer", Doc: "Begin after this event."},
			{Name: "service_id", Type: "string", Doc: "Only those of a service."},
			{Name: "event_type", Type: "string", Doc: "Only those of a type."},
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default; of a page."},
			{Name: "tail", Type: "boolean", Doc: "The last events that match, instead of the first; of a page."},
			{Name: "Last-Event-ID", Type: "integer", Header: true, Doc: "As since_id, for a stream that goes on."},
		},
		Doc: "Read or follow the event log."},
	{Name: OpEventsVerify, Method: "GET", Path: "/events/verify", Permission: PermissionRead, Resource: "events",
		Response: reflect.TypeFor[VerifyReport](),
		Doc:      "Prove the hash chain of the whole log."},
	{Name: OpLogs, Method: "GET", Path: "/logs", RPC: "Logs", Permission: PermissionRead, Resource: "logs/{id}",
		Response: reflect.TypeFor[LogPage](), Streams: true, Tool: true,
		Query: []Parameter{
			{Name: "service_id", Type: "string", Doc: "Only those of a service."},
			{Name: "instance", Type: "integer", Doc: "Only those of an instance."},
			{Name: "level", Type: "string", Doc: "The least severe level: debug, info, warn or error."},
			{Name: "text", Type: "string", Doc: "Must occur in the line."},
			{Name: "since", Type: "date-time", Doc: "Not before this time."},
			{Name: "until", Type: "date-time", Doc: "Not after this time."},
			{Name: "since_id", Type: "integer", Doc: "Begin after this line."},
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default; of a page."},
			{Name: "tail", Type: "boolean", Doc: "The last lines that match, instead of the first."},
			{Name: "Last-Event-ID", Type: "integer", Header: true, Doc: "As since_id, for a stream that goes on."},
		},
		Doc: "Read or follow what services wrote."},
	{Name: OpHealth, Method: "GET", Path: "/health", RPC: "Health", Response: reflect.TypeFor[Health](),
		Doc: "Say how the daemon is; details only for a caller with a proof."},
	{Name: OpLive, Method: "GET", Path: "/health/live", Response: reflect.TypeFor[Health](),
		Doc: "200 while the daemon answers at all."},
	{Name: OpReady, Method: "GET", Path: "/health/ready", Response: reflect.TypeFor[Health](),
		Doc: "200 once every service that should run is ready or has failed its first start."},
	{Name: OpSecretsSet, Method: "POST", Path: "/secrets", RPC: "Vault.Store", Permission: PermissionWrite, Resource: "secrets/{id}",
		Request: reflect.TypeFor[SecretRequest](), Response: reflect.TypeFor[Secret](), MaxBody: MaxSecretBody,
		Query: []Parameter{
			{Name: "Idempotency-Key", Type: "string", Header: true, Doc: "The same key within 24 h gets the first answer again."},
		},
		Codes: []Code{CodeQuotaExceeded, CodeUnavailable},
		Doc:   "Store a secret; where the name exists, it becomes its next version."},
	{Name: OpSecretsList, Method: "GET", Path: "/secrets", RPC: "Vault.List", Permission: PermissionRead, Resource: "secrets/{id}", Filtered: true,
		Response: reflect.TypeFor[SecretList](), Tool: true,
		Query: []Parameter{
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default."},
			{Name: "offset", Type: "integer", Doc: "How many to pass over."},
		},
		Doc: "List the names of the secrets, and never a value."},
	{Name: OpSecretsGet, Method: "GET", Path: "/secrets/:key", RPC: "Vault.Get", Permission: PermissionRead, Resource: "secrets/{id}",
		Response: reflect.TypeFor[Secret](), Codes: []Code{CodeNotFound},
		Doc: "Show a secret's version and age, and never its value."},
	{Name: OpSecretsReveal, Method: "POST", Path: "/secrets/:key/reveal", RPC: "Vault.Reveal", Permission: PermissionRead, Resource: "secrets/{id}",
		Request: reflect.TypeFor[RevealRequest](), Response: reflect.TypeFor[RevealedSecret](), MaxBody: maxSmallBody,
		Codes: []Code{CodeNotFound, CodeUnavailable},
		Doc:   "Reveal the value of a secret; the log tells who asked."},
	{Name: OpSecretsRemove, Method: "DELETE", Path: "/secrets/:key", RPC: "Vault.Revoke", Permission: PermissionWrite, Resource: "secrets/{id}",
		Response: reflect.TypeFor[RevokedSecret](), Codes: []Code{CodeNotFound},
		Query: []Parameter{
			{Name: "Idempotency-Key", Type: "string", Header: true, Doc: "The same key within 24 h gets the first answer again."},
		},
		Doc: "Revoke a secret: its data key is shredded."},
	{Name: OpVaultUnlock, Method: "POST", Path: "/vault/unlock", RPC: "Vault.Unlock", Permission: PermissionOperator,
		Request: reflect.TypeFor[UnlockRequest](), Response: reflect.TypeFor[VaultStatus](), MaxBody: maxSmallBody, Codes: []Code{CodeConflict},
		Doc: "Unlock a vault whose key_source is passphrase."},
	{Name: OpVaultRotate, Method: "POST", Path: "/vault/rotate", RPC: "Vault.Rotate", Permission: PermissionOperator,
		Request: reflect.TypeFor[RotateRequest](), Response: reflect.TypeFor[VaultStatus](), MaxBody: maxSmallBody, Codes: []Code{CodeConflict, CodeUnavailable},
		Doc: "Change the master key and wrap every data key anew."},
	{Name: OpCapGrant, Method: "POST", Path: "/capabilities", RPC: "Capabilities.Grant", Permission: PermissionGrant, Resource: "capabilities",
		Request: reflect.TypeFor[CapabilityRequest](), Response: reflect.TypeFor[CapabilityGrant](), MaxBody: maxSmallBody,
		Codes: []Code{CodeQuotaExceeded, CodeUnavailable},
		Doc:   "Grant a capability; its token is shown this once."},
	{Name: OpCapAttenuate, Method: "POST", Path: "/capabilities/attenuate", RPC: "Capabilities.Attenuate", Permission: PermissionAny,
		Request: reflect.TypeFor[CapabilityRequest](), Response: reflect.TypeFor[CapabilityGrant](), MaxBody: maxSmallBody,
		Codes: []Code{CodeQuotaExceeded, CodeUnavailable},
		Doc:   "Narrow a token; what comes of it never allows more."},
	{Name: OpCapVerify, Method: "POST", Path: "/capabilities/verify", RPC: "Capabilities.Verify", Permission: PermissionAny,
		Request: reflect.TypeFor[VerifyRequest](), Response: reflect.TypeFor[VerifyResult](), MaxBody: maxSmallBody, Codes: []Code{CodeUnavailable},
		Doc: "Say whether a token allows something."},
	{Name: OpCapList, Method: "GET", Path: "/capabilities", RPC: "Capabilities.List", Permission: PermissionRead, Resource: "capabilities",
		Response: reflect.TypeFor[CapabilityList](),
		Query: []Parameter{
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default."},
			{Name: "offset", Type: "integer", Doc: "How many to pass over."},
		},
		Doc: "List the capabilities that are recorded, oldest first, and never a token."},
	{Name: OpCapRevoke, Method: "DELETE", Path: "/capabilities/:id", RPC: "Capabilities.Revoke", Permission: PermissionGrant, Resource: "capabilities",
		Response: reflect.TypeFor[RevokedCapability](), Codes: []Code{CodeNotFound},
		Doc: "Revoke a capability, and all that was derived from it."},
	{Name: OpUsage, Method: "GET", Path: "/usage", Permission: PermissionRead, Resource: "usage",
		Response: reflect.TypeFor[UsageReport](), Media: "text/csv", Tool: true,
		Query: []Parameter{
			{Name: "from", Type: "date-time", Doc: "Not before this time, in whole hours; 30 days ago by default."},
			{Name: "to", Type: "date-time", Doc: "Before this time; now by default."},
			{Name: "by", Type: "string", Doc: "tenant, the default, or service."},
			{Name: "limit", Type: "integer", Doc: "1 to 1000, 100 by default."},
			{Name: "offset", Type: "integer", Doc: "How many to pass over."},
		},
		Doc: "Say what tenants or services have used: CPU, memory over time, calls, bytes, builds; as JSON, or as CSV for Accept: text/csv."},
	{Name: OpMetrics, Method: "GET", Path: "/metrics", Permission: PermissionRead, Resource: "metrics", Codes: []Code{CodeNotFound},
		Doc: "Expose the metrics to Prometheus: all of them to the operator, its own to a tenant."},
	{Name: OpOpenAPI, Method: "GET", Path: "/openapi.json", Response: reflect.TypeFor[map[string]any](),
		Doc: "Describe this API."},
	{Name: OpMCP, Method: "POST", Path: "/mcp", Permission: PermissionAny, MaxBody: MaxMCPBody,
		Doc: "Speak the Model Context Protocol over streamable HTTP: the operations as tools for agents."},
	{Name: OpLLMs, Method: "GET", Path: "/llms.txt",
		Doc: "Tell an agent what this is and where to read on."},
	{Name: OpBackup, Method: "GET", Path: "/backup", Permission: PermissionOperator, Codes: []Code{CodeStorageUnavailable},
		Query: []Parameter{{Name: "with_key", Type: "boolean", Doc: "Put the vault's key file into it too."}},
		Doc:   "Take a consistent copy of the running daemon, as a tar."},
	{Name: OpUpgrade, Method: "POST", Path: "/upgrade", Permission: PermissionOperator, Request: reflect.TypeFor[UpgradeRequest](),
		Response: reflect.TypeFor[UpgradeResult](), MaxBody: maxSmallBody, Codes: []Code{CodeConflict},
		Doc: "Put another binary in the daemon's place; services keep their processes."},
	{Name: OpShutdown, Method: "POST", Path: "/shutdown", RPC: "Shutdown", Permission: PermissionOperator,
		Response: reflect.TypeFor[ShutdownResult](),
		Doc:      "Stop the daemon as SIGTERM does."},
}

// FullRPC is the name of the rpc on the wire, "" where there is none.
func (op Operation) FullRPC() string {
	if op.RPC == "" {
		return ""
	}
	service, method, ok := strings.Cut(op.RPC, ".")
	if !ok {
		service, method = "Solo", op.RPC
	}
	return "/solo.v1." + service + "/" + method
}

// Operations returns the table, one row a use case.
func Operations() []Operation { return append([]Operation(nil), operations...) }
