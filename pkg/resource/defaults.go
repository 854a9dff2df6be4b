package resource

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// MeshDefault is one object that a new mesh brings.
type MeshDefault struct {
	Kind Kind
	Name string
	Spec proto.Message
}

// MeshDefaults lists what is created together with a mesh (spec 3.1), without its signing keys. The messages
// are the caller's.
func MeshDefaults(mesh string) []MeshDefault {
	anyService := func() []*meshv1.Selector {
		return []*meshv1.Selector{{Match: map[string]string{TagService: "*"}}}
	}
	backOff := func() *meshv1.Retry_BackOff {
		return &meshv1.Retry_BackOff{
			BaseInterval: durationpb.New(25 * time.Millisecond),
			MaxInterval:  durationpb.New(250 * time.Millisecond),
		}
	}
	return []MeshDefault{
		{KindTrafficPermission, "allow-all-" + mesh, &meshv1.TrafficPermission{
			Sources: anyService(), Destinations: anyService(),
		}},
		{KindTrafficRoute, "route-all-" + mesh, &meshv1.TrafficRoute{
			Sources: anyService(), Destinations: anyService(),
			Conf: &meshv1.TrafficRoute_Conf{
				Split: []*meshv1.TrafficRoute_Split{{Weight: 100, Destination: map[string]string{TagService: "*"}}},
				LoadBalancer: &meshv1.TrafficRoute_LoadBalancer{
					LbType: &meshv1.TrafficRoute_LoadBalancer_RoundRobin_{RoundRobin: &meshv1.TrafficRoute_LoadBalancer_RoundRobin{}},
				},
			},
		}},
		{KindTimeout, "timeout-all-" + mesh, &meshv1.Timeout{
			Sources: anyService(), Destinations: anyService(),
			Conf: &meshv1.Timeout_Conf{
				ConnectTimeout: durationpb.New(5 * time.Second),
				Tcp:            &meshv1.Timeout_Conf_Tcp{IdleTimeout: durationpb.New(time.Hour)},
				Http: &meshv1.Timeout_Conf_Http{
					RequestTimeout: durationpb.New(15 * time.Second),
					IdleTimeout:    durationpb.New(time.Hour),
				},
				Grpc: &meshv1.Timeout_Conf_Grpc{StreamIdleTimeout: durationpb.New(5 * time.Minute)},
			},
		}},
		{KindRetry, "retry-all-" + mesh, &meshv1.Retry{
			Sources: anyService(), Destinations: anyService(),
			Conf: &meshv1.Retry_Conf{
				Http: &meshv1.Retry_Conf_Http{
					NumRetries:    wrapperspb.UInt32(5),
					PerTryTimeout: durationpb.New(16 * time.Second),
					BackOff:       backOff(),
				},
				Tcp: &meshv1.Retry_Conf_Tcp{MaxConnectAttempts: 5},
				Grpc: &meshv1.Retry_Conf_Grpc{
					NumRetries:    wrapperspb.UInt32(5),
					PerTryTimeout: durationpb.New(16 * time.Second),
					BackOff:       backOff(),
				},
			},
		}},
	}
}

// defaultMesh completes the metrics backends, and the names of a provided CA's secrets that an older shape
// leaves to the mesh's name; the published release writes no other default into a mesh.
func defaultMesh(k Key, m proto.Message) {
	mesh, ok := m.(*meshv1.Mesh)
	if !ok {
		return
	}
	for _, b := range mesh.GetMetrics().GetBackends() {
		if b.GetType() == backendPrometheus {
			defaultPrometheus(b)
		}
	}
	for _, b := range mesh.GetMtls().GetBackends() {
		for field, suffix := range map[string]string{"cert": legacyCACert, "key": legacyCAKey} {
			secret := b.GetConf().GetFields()[field].GetStructValue().GetFields()
			if b.GetType() == backendProvided && secret["secret"].GetStringValue() == suffix {
				secret["secret"] = structpb.NewStringValue(k.Name + suffix)
			}
		}
	}
}

func defaultPrometheus(b *meshv1.MetricsBackend) {
	if b.Conf == nil {
		b.Conf = &structpb.Struct{}
	}
	if b.Conf.Fields == nil {
		b.Conf.Fields = map[string]*structpb.Value{}
	}
	conf := b.Conf.Fields
	set := func(key string, v *structpb.Value) {
		if _, null := conf[key].GetKind().(*structpb.Value_NullValue); conf[key] == nil || null {
			conf[key] = v
		}
	}
	set("port", structpb.NewNumberValue(5670))
	set("path", structpb.NewStringValue("/metrics"))
	set("tags", structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		TagService: structpb.NewStringValue("dataplane-metrics"),
	}}))
}

// defaultDataplane starts an inbound that is to be probed as not ready.
func defaultDataplane(_ Key, m proto.Message) {
	dp, ok := m.(*meshv1.Dataplane)
	if !ok {
		return
	}
	if i := dp.GetNetworking().GetIngress(); i != nil {
		// Whoever reads it gets what there is then.
		i.AvailableServices = nil
	}
	for _, in := range dp.GetNetworking().GetInbound() {
		if in.GetServiceProbe() != nil && in.GetHealth() == nil {
			in.Health = &meshv1.Dataplane_Networking_Inbound_Health{}
		}
	}
}
