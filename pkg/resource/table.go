package resource

import (
	"errors"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// The kinds.
const (
	KindMesh              Kind = "Mesh"
	KindDataplane         Kind = "Dataplane"
	KindDataplaneInsight  Kind = "DataplaneInsight"
	KindTrafficPermission Kind = "TrafficPermission"
	KindTrafficRoute      Kind = "TrafficRoute"
	KindTimeout           Kind = "Timeout"
	KindRetry             Kind = "Retry"
	KindHealthCheck       Kind = "HealthCheck"
	KindCircuitBreaker    Kind = "CircuitBreaker"
	KindFaultInjection    Kind = "FaultInjection"
	KindTrafficLog        Kind = "TrafficLog"
	KindTrafficTrace      Kind = "TrafficTrace"
	KindProxyTemplate     Kind = "ProxyTemplate"
	KindExternalService   Kind = "ExternalService"
	KindSecret            Kind = "Secret"
	KindGlobalSecret      Kind = "GlobalSecret"
	KindZone              Kind = "Zone"
	KindZoneInsight       Kind = "ZoneInsight"
	KindRevocation        Kind = "Revocation"

	// Internal kinds: never written by a user.
	KindZonePosition   Kind = "ZonePosition"
	KindProxyPosition  Kind = "ProxyPosition"
	KindSyncRejection  Kind = "SyncRejection"
	KindProxyRejection Kind = "ProxyRejection"
	KindPublicKey      Kind = "PublicKey"
	// KindGlobalPublicKey is a PublicKey that belongs to no mesh.
	KindGlobalPublicKey Kind = "GlobalPublicKey"
	// KindZoneIngress and KindZoneService are what zones tell one another of themselves.
	KindZoneIngress Kind = "ZoneIngress"
	KindZoneService Kind = "ZoneService"
	// KindInlineDataplane marks a Dataplane of the same scope and name that goes with its proxy.
	KindInlineDataplane Kind = "InlineDataplane"
)

// Scope says what the scope of a kind's keys is.
type Scope int

const (
	// ScopeGlobal kinds have an empty scope.
	ScopeGlobal Scope = iota
	// ScopeMesh kinds have the mesh's name as their scope.
	ScopeMesh
)

// LogID names one of a store's two logs.
type LogID int

const (
	// ConfigLog holds what a user writes or a plan is made of.
	ConfigLog LogID = iota
	// StatusLog holds what was observed.
	StatusLog
)

// Flow says which way a key travels between the global control plane and the zones. It is a function of what
// never changes in an object's life, so a resumed session can never lose a deletion.
type Flow int

const (
	// FlowNone stays where it was born.
	FlowNone Flow = iota
	// FlowDown goes from the global control plane to every zone.
	FlowDown
	// FlowUp goes from its zone to the global control plane.
	FlowUp
	// FlowUpAndOn goes from its zone to the global control plane and on to the other zones.
	FlowUpAndOn
)

// Access says who may use a kind over the public API.
type Access int

const (
	// Public kinds may be read by anyone who reaches the API.
	Public Access = iota
	// Admin kinds may be read and written by administrators only (spec 2.7).
	Admin
	// Internal kinds have no path in the public API.
	Internal
)

// Writable says on which control planes a kind may be written over REST. A standalone zone control plane
// takes whatever is writable anywhere.
type Writable int

const (
	// WritableNowhere: the control plane writes it itself; 405 everywhere.
	WritableNowhere Writable = iota
	// WritableOnGlobal: a joined zone answers 405.
	WritableOnGlobal
	// WritableInZone: the global control plane answers 405.
	WritableInZone
)

// Descriptor is one row of the table: all that REST, store, sync, CLI and docs know of a kind.
type Descriptor struct {
	Kind Kind
	// Plural is the collection's path segment; Singular is what the command line calls one item.
	Plural, Singular string
	// Aliases are other path segments that published documents use.
	Aliases []string
	// TypeAliases are other values of "type" that a body may carry (GlobalSecret: Secret).
	TypeAliases []Kind
	Scope       Scope
	Log         LogID
	Access      Access
	Writable    Writable
	// Flow of a key of this kind.
	Flow func(Key) Flow
	// Sealed kinds are encrypted at rest: secrets, and what may hold a private key.
	Sealed bool
	// marks lead to the private keys in a spec; nil: the kind has none.
	marks marks
	// New makes an empty spec.
	New func() proto.Message
	// Default completes a spec that a user gave, in place; nil: nothing to complete.
	Default func(Key, proto.Message)
	// Validate lists all that is wrong with a spec; nil: nothing can be.
	Validate func(Key, proto.Message) Violations
	// Doc is one sentence for OpenAPI and the docs.
	Doc string
}

// ErrUnknownKind is returned for a kind, or a path segment, that the table does not have.
var ErrUnknownKind = errors.New("unknown kind")

// Table is the table of kinds. It is immutable.
type Table struct {
	rows     []*Descriptor
	byKind   map[Kind]*Descriptor
	byPlural map[string]*Descriptor
}

func flow(f Flow) func(Key) Flow { return func(Key) Flow { return f } }

// isSigningKey knows the secrets that never leave the store in which they were made by their names.
func isSigningKey(name string) bool {
	return strings.HasPrefix(name, "dataplane-token-signing-key") || strings.HasPrefix(name, "envoy-admin-client-token-signing-key")
}

func secretFlow(k Key) Flow {
	if isSigningKey(k.Name) {
		return FlowNone
	}
	return FlowDown
}

// NewTable makes the table of all kinds of this build.
func NewTable() *Table {
	rows := []*Descriptor{
		{
			Kind: KindMesh, Plural: "meshes", Singular: "mesh", Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.Mesh{} }, Default: defaultMesh, Validate: validateMesh,
			Doc: "The boundary within which services may talk to one another.",
		},
		{
			Kind: KindDataplane, Plural: "dataplanes", Singular: "dataplane", Scope: ScopeMesh, Writable: WritableInZone, Flow: flow(FlowUp),
			New: func() proto.Message { return &meshv1.Dataplane{} }, Default: defaultDataplane, Validate: validateDataplane,
			Doc: "A data plane proxy: where it listens, for which services, and what it calls.",
		},
		{
			Kind: KindDataplaneInsight, Plural: "dataplane-insights", Singular: "dataplane-insight", Scope: ScopeMesh, Log: StatusLog, Flow: flow(FlowUp),
			New: func() proto.Message { return &meshv1.DataplaneInsight{} },
			Doc: "What was observed of a data plane proxy.",
		},
		{
			Kind: KindTrafficPermission, Plural: "traffic-permissions", Singular: "traffic-permission", Aliases: []string{"trafficpermissions"},
			Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.TrafficPermission{} }, Validate: validateTrafficPermission,
			Doc: "Who may call whom.",
		},
		{
			Kind: KindTrafficRoute, Plural: "traffic-routes", Singular: "traffic-route", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.TrafficRoute{} }, Validate: validateTrafficRoute,
			Doc: "Where the traffic from some services to another goes.",
		},
		{
			Kind: KindTimeout, Plural: "timeouts", Singular: "timeout", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.Timeout{} }, Validate: validateTimeout,
			Doc: "How long the traffic between services may take.",
		},
		{
			Kind: KindRetry, Plural: "retries", Singular: "retry", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.Retry{} }, Validate: validateRetry,
			Doc: "How failed requests and connections are tried again.",
		},
		{
			Kind: KindHealthCheck, Plural: "health-checks", Singular: "healthcheck", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.HealthCheck{} }, Validate: validateHealthCheck,
			Doc: "How the endpoints of services are probed.",
		},
		{
			Kind: KindCircuitBreaker, Plural: "circuit-breakers", Singular: "circuit-breaker", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.CircuitBreaker{} }, Validate: validateCircuitBreaker,
			Doc: "When traffic is kept away from endpoints that fail, and how much there may be.",
		},
		{
			Kind: KindFaultInjection, Plural: "fault-injections", Singular: "fault-injection", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.FaultInjection{} }, Validate: validateFaultInjection,
			Doc: "Which requests fail, or are late or slow, on purpose.",
		},
		{
			Kind: KindTrafficLog, Plural: "traffic-logs", Singular: "traffic-log", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.TrafficLog{} }, Validate: validateTrafficLog,
			Doc: "Which traffic is logged where.",
		},
		{
			Kind: KindTrafficTrace, Plural: "traffic-traces", Singular: "traffic-trace", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.TrafficTrace{} }, Validate: validateTrafficTrace,
			Doc: "Which proxies send traces where.",
		},
		{
			Kind: KindProxyTemplate, Plural: "proxytemplates", Singular: "proxytemplate", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.ProxyTemplate{} }, Validate: validateProxyTemplate,
			Doc: "What is changed by hand in the Envoy configuration of proxies.",
		},
		{
			Kind: KindExternalService, Plural: "external-services", Singular: "external-service", Scope: ScopeMesh, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &meshv1.ExternalService{} }, Validate: validateExternalService,
			Doc: "A service outside of the mesh.",
		},
		{
			Kind: KindSecret, Plural: "secrets", Singular: "secret", Scope: ScopeMesh, Access: Admin, Writable: WritableOnGlobal, Flow: secretFlow, Sealed: true,
			New: func() proto.Message { return &systemv1.Secret{} },
			Doc: "Confidential bytes of a mesh.",
		},
		{
			Kind: KindGlobalSecret, Plural: "global-secrets", Singular: "global-secret", TypeAliases: []Kind{KindSecret}, Access: Admin, Writable: WritableOnGlobal, Flow: flow(FlowNone), Sealed: true,
			New: func() proto.Message { return &systemv1.Secret{} },
			Doc: "Confidential bytes of the control plane itself.",
		},
		{
			Kind: KindZone, Plural: "zones", Singular: "zone", Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &systemv1.Zone{} }, Validate: validateZone,
			Doc: "A place where services run, with a control plane of its own.",
		},
		{
			Kind: KindZoneInsight, Plural: "zone-insights", Singular: "zone-insight", Log: StatusLog, Flow: flow(FlowNone),
			New: func() proto.Message { return &systemv1.ZoneInsight{} },
			Doc: "What was observed of a zone.",
		},

		{
			Kind: KindRevocation, Plural: "revocations", Singular: "revocation", Access: Admin, Writable: WritableOnGlobal, Flow: flow(FlowDown),
			New: func() proto.Message { return &systemv1.Revocation{} }, Validate: validateRevocation,
			Doc: "Takes back the token, the tokens of the key, or the client certificate whose id (jti, kid, fingerprint) is its name.",
		},

		{
			Kind: KindZonePosition, Plural: "zone-positions", Log: StatusLog, Access: Internal, Flow: flow(FlowUp),
			New: func() proto.Message { return &systemv1.ZonePosition{} },
			Doc: "How far a zone has come; the zone's name is the object's name on the global control plane, \"self\" in the zone.",
		},
		{
			Kind: KindProxyPosition, Plural: "proxy-positions", Scope: ScopeMesh, Log: StatusLog, Access: Internal, Flow: flow(FlowUp),
			New: func() proto.Message { return &systemv1.ProxyPosition{} },
			Doc: "How far a proxy has come while it lags; named like its dataplane.",
		},
		{
			Kind: KindSyncRejection, Plural: "sync-rejections", Access: Internal, Flow: flow(FlowUp),
			New: func() proto.Message { return &systemv1.SyncRejection{} },
			Doc: "A key that a control plane could not take from its peer.",
		},
		{
			Kind: KindProxyRejection, Plural: "proxy-rejections", Log: StatusLog, Access: Internal, Flow: flow(FlowUp),
			New: func() proto.Message { return &systemv1.ProxyRejection{} },
			Doc: "What proxies refused of one source object.",
		},
		{
			Kind: KindPublicKey, Plural: "public-keys", Scope: ScopeMesh, Access: Internal, Flow: flow(FlowDown),
			New: func() proto.Message { return &systemv1.PublicKey{} },
			Doc: "Verifies tokens; named by its key id, in the mesh whose tokens it verifies.",
		},
		{
			Kind: KindGlobalPublicKey, Plural: "global-public-keys", Access: Internal, Flow: flow(FlowDown),
			New: func() proto.Message { return &systemv1.PublicKey{} },
			Doc: "Verifies tokens of users or zones; named by its key id.",
		},
		{
			Kind: KindZoneIngress, Plural: "zone-ingresses", Access: Internal, Flow: flow(FlowUpAndOn),
			New: func() proto.Message { return &systemv1.ZoneIngress{} }, Validate: validateZoneIngress,
			Doc: "Where the other zones reach the services of one; named by mesh and name of its dataplane.",
		},
		{
			Kind: KindZoneService, Plural: "zone-services", Scope: ScopeMesh, Access: Internal, Flow: flow(FlowUpAndOn),
			New: func() proto.Message { return &systemv1.ZoneService{} }, Validate: validateZoneService,
			Doc: "How many instances with the same tags a zone has; named by a hash of the tags.",
		},
		{
			Kind: KindInlineDataplane, Plural: "inline-dataplanes", Scope: ScopeMesh, Access: Internal, Flow: flow(FlowNone),
			New: func() proto.Message { return &emptypb.Empty{} },
			Doc: "Marks the dataplane of the same name as given by its proxy, with which it goes.",
		},
	}
	t := &Table{rows: rows, byKind: map[Kind]*Descriptor{}, byPlural: map[string]*Descriptor{}}
	for _, d := range rows {
		d.marks = marksOf(d.New().ProtoReflect().Descriptor())
		d.Sealed = d.Sealed || d.Confidential()
		t.byKind[d.Kind] = d
		for _, p := range append([]string{d.Plural}, d.Aliases...) {
			t.byPlural[p] = d
		}
	}
	return t
}

// All returns every row, in a fixed order. The slice must not be changed.
func (t *Table) All() []*Descriptor { return t.rows }

// ByKind finds a row by its kind.
func (t *Table) ByKind(k Kind) (*Descriptor, bool) { d, ok := t.byKind[k]; return d, ok }

// ByPlural finds a row by its path segment or one of its aliases.
func (t *Table) ByPlural(p string) (*Descriptor, bool) { d, ok := t.byPlural[p]; return d, ok }
