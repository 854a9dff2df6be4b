package controlplane_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/service/health/v3" // a service that nobody serves
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// right is what a call needs.
type right int

const (
	read  right = iota // nothing
	write              // to change what is no secret
	admin              // to see or change secrets, and to have tokens made
)

// access is what each RPC of the APIs needs. An RPC that has no row here fails the test. What differs by kind has a row
// for each sort.
var access = []struct {
	rpc   string
	right right
	// http is the REST form; request is the protobuf form as JSON.
	http, body, request string
}{
	{"meridian.api.v1.ResourceService/List", read, "GET /meshes", "", `{"plural":"meshes"}`},
	{"meridian.api.v1.ResourceService/List", admin, "GET /global-secrets", "", `{"plural":"global-secrets"}`},
	{"meridian.api.v1.ResourceService/List", admin, "GET /secrets", "", `{"plural":"secrets"}`},
	{"meridian.api.v1.ResourceService/List", admin, "GET /revocations", "", `{"plural":"revocations"}`},
	{"meridian.api.v1.ResourceService/Get", read, "GET /meshes/default", "", `{"plural":"meshes","name":"default"}`},
	{"meridian.api.v1.ResourceService/Get", admin, "GET /meshes/default/secrets/s", "", `{"plural":"secrets","scope":"default","name":"s"}`},
	{"meridian.api.v1.ResourceService/Get", admin, "GET /revocations/x", "", `{"plural":"revocations","name":"x"}`},
	{"meridian.api.v1.ResourceService/Watch", read, "GET /meshes?watch=true", "", `{"plural":"meshes"}`},
	{"meridian.api.v1.ResourceService/Watch", read, "GET /?watch=true", "", `{}`},
	{"meridian.api.v1.ResourceService/Watch", admin, "GET /global-secrets?watch=true", "", `{"plural":"global-secrets"}`},
	{"meridian.api.v1.ResourceService/Watch", admin, "GET /meshes/default/secrets/s?watch=true", "", `{"plural":"secrets","scope":"default","name":"s"}`},
	{"meridian.api.v1.ResourceService/Put", write, "PUT /zones/zone-9", "{}", `{"plural":"zones","name":"zone-9","body":"e30="}`},
	{"meridian.api.v1.ResourceService/Put", admin, "PUT /meshes/default/secrets/s", "{}", `{"plural":"secrets","scope":"default","name":"s","body":"e30="}`},
	{"meridian.api.v1.ResourceService/Put", admin, "PUT /global-secrets/s", "{}", `{"plural":"global-secrets","name":"s","body":"e30="}`},
	{"meridian.api.v1.ResourceService/Put", admin, "PUT /revocations/x", "{}", `{"plural":"revocations","name":"x","body":"e30="}`},
	{"meridian.api.v1.ResourceService/Delete", write, "DELETE /zones/none", "", `{"plural":"zones","name":"none"}`},
	{"meridian.api.v1.ResourceService/Delete", admin, "DELETE /meshes/default/secrets/none", "", `{"plural":"secrets","scope":"default","name":"none"}`},
	{"meridian.api.v1.ResourceService/Delete", admin, "DELETE /revocations/none", "", `{"plural":"revocations","name":"none"}`},
	{"meridian.api.v1.ResourceService/Batch", write, "PUT /batch", "{}", `{"body":"e30="}`},
	{"meridian.api.v1.ResourceService/Batch", admin, "PUT /batch", `{"delete":[{"type":"GlobalSecret","name":"none"}]}`, `{"body":"eyJkZWxldGUiOlt7InR5cGUiOiJHbG9iYWxTZWNyZXQiLCJuYW1lIjoibm9uZSJ9XX0="}`},
	{"meridian.api.v1.InspectService/ListZoneStatus", read, "GET /status/zones", "", `{}`},
	{"meridian.api.v1.InspectService/ListZoneOverviews", read, "GET /zones+insights", "", `{}`},
	{"meridian.api.v1.InspectService/GetZoneOverview", read, "GET /zones+insights/none", "", `{"name":"none"}`},
	{"meridian.api.v1.InspectService/ListDataplaneOverviews", read, "GET /dataplanes+insights", "", `{}`},
	{"meridian.api.v1.InspectService/GetDataplaneOverview", read, "GET /meshes/default/dataplanes+insights/none", "", `{"mesh":"default","name":"none"}`},
	{"meridian.api.v1.InspectService/GetMeshInsight", read, "GET /mesh-insights/default", "", `{"name":"default"}`},
	{"meridian.api.v1.InspectService/ListMeshInsights", read, "GET /mesh-insights", "", `{}`},
	{"meridian.api.v1.InspectService/GetServiceInsight", read, "GET /meshes/default/service-insights/none", "", `{"mesh":"default","name":"none"}`},
	{"meridian.api.v1.InspectService/ListServiceInsights", read, "GET /service-insights", "", `{}`},
	{"meridian.api.v1.InspectService/ListRejections", read, "GET /rejections", "", `{}`},
	{"meridian.api.v1.InspectService/GetPositions", read, "GET /positions?revision=1", "", `{"revision":"1"}`},
	{"meridian.api.v1.ControlPlaneService/GetInfo", read, "GET /", "", `{}`},
	{"meridian.api.v1.ControlPlaneService/GetConfig", read, "GET /config", "", `{}`},
	{"meridian.api.v1.ControlPlaneService/GetVersions", read, "GET /versions", "", `{}`},
	{"meridian.api.v1.TokenService/IssueDataplaneToken", admin, "POST /tokens", `{"mesh":"default"}`, `{"body":"eyJtZXNoIjoiZGVmYXVsdCJ9"}`},
	{"meridian.api.v1.TokenService/IssueZoneToken", admin, "POST /tokens/zone", `{"zone":"z"}`, `{"body":"eyJ6b25lIjoieiJ9"}`},
	{"meridian.api.v1.TokenService/IssueUserToken", admin, "POST /tokens/user", `{"name":"a","role":"writer"}`, `{"body":"e30="}`},
	{"meridian.api.v1.TokenService/GenerateSigningKey", admin, "POST /signing-keys", `{"use":"nothing"}`, `{"body":"e30="}`},
	{"meridian.api.v1.ControlPlaneService/GetCatalog", read, "GET /catalog", "", `{}`},
	{"meridian.api.v1.ProvidedCAService/ListProvidedCertificates", admin, "GET /meshes/default/ca/provided/certificates", "", `{"mesh":"default"}`},
	{"meridian.api.v1.ProvidedCAService/AddProvidedCertificate", admin, "POST /meshes/default/ca/provided/certificates", "{}", `{"mesh":"default","body":"e30="}`},
	{"meridian.api.v1.ProvidedCAService/DeleteProvidedCertificate", admin, "DELETE /meshes/default/ca/provided/certificates/none", "", `{"mesh":"default","id":"none"}`},
	{"meridian.api.v1.BackupService/Backup", admin, "GET /backup", "", `{}`},
	{"meridian.api.v1.BackupService/Export", read, "GET /export", "", `{}`},
	{"meridian.api.v1.BackupService/Export", admin, "GET /export?secrets=true", "", `{"secrets":"true"}`},
}

// elsewhere are the RPCs of the other ports: the port, and the role that it lets in.
var elsewhere = map[string]struct{ port, role string }{
	"meridian.kds.v1.SyncService/Sync":                                                {"kds", "zone token"},
	"envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources":  {"dpServer", "dataplane token"},
	"envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources": {"dpServer", ""},
}

// role is somebody who calls.
type role struct {
	name   string
	remote bool
	cert   bool
	token  string
	// may do what, over TLS and in plain; wrong: whatever the call, the credential is refused.
	may   map[right]bool
	plain map[right]bool
	wrong bool
}

func may(rights ...right) map[right]bool {
	m := map[right]bool{}
	for _, r := range rights {
		m[r] = true
	}
	return m
}

// roles are all who may call, with credentials of w.
func (w *world) roles() []role {
	user := func(role string) string {
		return w.must("POST", "/tokens/user", fmt.Sprintf(`{"name": "u-%s", "role": %q}`, role, role))
	}
	zone := w.must("POST", "/tokens/zone", `{"zone": "zone-7"}`)
	dataplane := w.mustZone("POST", "/tokens", `{"mesh": "default", "name": "dp"}`)
	revoked := user("admin")
	w.must("PUT", "/revocations/"+idOf(w.t, revoked), "{}")
	all, none := may(read, write, admin), map[right]bool{}
	return []role{
		{name: "anonymous", remote: true, may: may(read), plain: may(read)},
		{name: "loopback", may: all, plain: all},
		{name: "writer", remote: true, token: user("writer"), may: may(read, write), plain: none, wrong: false},
		{name: "admin", remote: true, token: user("admin"), may: all, plain: none},
		{name: "writer on loopback", token: user("writer"), may: may(read, write), plain: may(read, write)},
		{name: "client certificate", remote: true, cert: true, may: all, plain: may(read)},
		{name: "revoked user token", remote: true, token: revoked, wrong: true},
		{name: "revoked user token on loopback", token: revoked, wrong: true},
		{name: "zone token", remote: true, token: zone, wrong: true},
		{name: "zone token on loopback", token: zone, wrong: true},
		{name: "dataplane token", remote: true, token: dataplane, wrong: true},
		{name: "no token", remote: true, token: "x", wrong: true},
	}
}

// TestAccess walks every RPC as every role on every listener.
func TestAccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.must("PUT", "/meshes/default/secrets/s", `{}`)
	w.must("PUT", "/revocations/x", `{}`)
	w.mustKnown(t)
	roles := w.roles()
	w.synced()
	for _, r := range roles {
		t.Run(r.name, func(t *testing.T) {
			var cert *tls.Certificate
			if r.cert {
				cert = &w.cert
			}
			for place, cp := range map[string]interface{ Addrs() map[string]string }{"global": w.global, "zone": w.zone} {
				conn := w.dial(cp.Addrs()["https"], r.remote, cert)
				for _, row := range access {
					// A joined zone shows its secrets to none but those who bring a credential.
					need := row.right
					if place == "zone" && strings.HasPrefix(row.http, "GET /export") {
						need = read // It exports what was written there, and no secrets are.
					}
					hidden := place == "zone" && need == admin && strings.HasPrefix(row.http, "GET /") && !strings.HasPrefix(row.http, "GET /backup") && !r.cert && r.token == ""
					for _, scheme := range []string{"http", "https", "grpc"} {
						allowed := r.may[need] && !hidden
						code := http.StatusForbidden
						if scheme == "http" {
							allowed = r.plain[need] && !hidden
						}
						if r.wrong || scheme == "http" && r.remote && r.token != "" {
							allowed, code = false, http.StatusUnauthorized
						}
						var got int
						if scheme == "grpc" {
							got = grpcCode(w.invoke(t.Context(), conn, row.rpc, row.request, r.token))
						} else {
							got = w.rest(scheme+"://"+cp.Addrs()[scheme], row.http, row.body, r, cert)
						}
						refused := got == http.StatusForbidden || got == http.StatusUnauthorized
						// Which control plane takes what is asked before who asks.
						if got == http.StatusMethodNotAllowed && !r.wrong {
							continue
						}
						if refused == allowed || refused && got != code || got >= 500 {
							t.Errorf("%s %s, %s: %d, allowed %v", place, scheme, row.rpc+" "+row.http, got, allowed)
						}
					}
				}
			}
		})
	}
}

// rest sends the REST form of a row.
func (w *world) rest(base, request, body string, r role, cert *tls.Certificate) int {
	method, path, _ := strings.Cut(request, " ")
	c := call{base: base, method: method, path: path, body: body, remote: r.remote, cert: cert}
	if r.token != "" {
		c.header = []string{"Authorization", "Bearer " + r.token}
	}
	return w.do(c).status
}

// grpcCode is what the REST form of an error would be.
func grpcCode(err error) int {
	switch status.Code(err) {
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.FailedPrecondition:
		return http.StatusMethodNotAllowed
	case codes.Internal, codes.Unknown, codes.Unavailable, codes.Unimplemented:
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

// invoke calls any RPC by its name, and reads at most one answer of a stream.
func (w *world) invoke(ctx context.Context, conn *grpc.ClientConn, rpc, request, token string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	service, name, _ := strings.Cut(rpc, "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return err
	}
	method := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	in, out := newMessage(method.Input()), newMessage(method.Output())
	if request != "" {
		if err := protojson.Unmarshal([]byte(request), in); err != nil {
			return err
		}
	}
	if !method.IsStreamingClient() && !method.IsStreamingServer() {
		return conn.Invoke(ctx, "/"+rpc, in, out)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+rpc)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(out); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return t.New().Interface()
}

// rpcs lists every RPC that this program knows: ours, and those of Envoy's services.
func rpcs() []string {
	var all []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				all = append(all, string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
		return true
	})
	return all
}

// mustKnown fails for RPCs of ours that have no row.
func (w *world) mustKnown(t *testing.T) {
	rows := map[string]bool{}
	for _, row := range access {
		rows[row.rpc] = true
	}
	for _, rpc := range rpcs() {
		if _, other := elsewhere[rpc]; strings.HasPrefix(rpc, "meridian.") && !rows[rpc] && !other {
			t.Errorf("%s has no row in the table of who may call it", rpc)
		}
	}
}

// TestListenersServeTheirOwn: no port serves an RPC that is another's, whoever asks, and the ports of zones and proxies
// let in those only whom they are for.
func TestListenersServeTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	api := map[string]bool{}
	for _, row := range access {
		api[row.rpc] = true
	}
	w.mustZone("PUT", "/meshes/default/dataplanes/dp", `{"networking":{"address":"127.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"web"}}]}}`)
	tokens := map[string]string{
		"": "", "zone token": w.must("POST", "/tokens/zone", `{"zone": "zone-7"}`),
		"dataplane token": w.mustZone("POST", "/tokens", `{"mesh": "default", "name": "dp"}`),
		"user token":      w.must("POST", "/tokens/user", `{"name": "ann", "role": "admin"}`),
	}
	w.synced()
	requests := map[string]string{
		"meridian.kds.v1.SyncService/Sync":                                               `{"hello":{"zone":"zone-7","store":"s"}}`,
		"envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources": `{"node":{"id":"default.dp"},"typeUrl":"type.googleapis.com/envoy.config.cluster.v3.Cluster"}`,
	}
	for _, port := range []struct{ name, addr string }{
		{"https", w.global.Addrs()["https"]}, {"https", w.zone.Addrs()["https"]}, {"kds", w.global.Addrs()["kds"]}, {"dpServer", w.zone.Addrs()["dpServer"]},
	} {
		conn := w.dial(port.addr, false, nil)
		for _, rpc := range rpcs() {
			own, other := elsewhere[rpc]
			switch {
			case port.name == "https" && api[rpc]: // TestAccess
			case other && own.port == port.name && own.role != "":
				for name, token := range tokens {
					want := codes.Unauthenticated
					if name == own.role {
						want = codes.OK
					}
					if err := w.invoke(t.Context(), conn, rpc, requests[rpc], token); status.Code(err) != want {
						t.Errorf("%s, %s with %q: %v, want %s", port.name, rpc, name, err, want)
					}
				}
			default:
				for name, token := range tokens {
					if err := w.invoke(t.Context(), conn, rpc, "", token); status.Code(err) != codes.Unimplemented {
						t.Errorf("%s serves %s to %q: %v", port.name, rpc, name, err)
					}
				}
			}
		}
	}
	// Nor do they serve the REST API.
	for _, row := range access {
		method, path, _ := strings.Cut(row.http, " ")
		if r := w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: method, path: path, body: row.body}); r.status != http.StatusNotFound {
			t.Errorf("dpServer: %s: %d", row.http, r.status)
		}
		if r, err := w.send(t.Context(), call{base: "https://" + w.global.Addrs()["kds"], method: method, path: path, body: row.body}); err == nil && r.status/100 == 2 {
			t.Errorf("kds: %s: %d %s", row.http, r.status, r.body)
		}
	}
	// The proxies' HTTP asks for a token of the proxy.
	for name, want := range map[string]int{"": 422, "zone token": 403, "user token": 403, "dataplane token": 200} {
		body := fmt.Sprintf(`{"mesh":"default","name":"dp","dataplaneToken":%q}`, tokens[name])
		if r := w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: "POST", path: "/bootstrap", body: body}); r.status != want {
			t.Errorf("bootstrap with %q: %d %s", name, r.status, r.body)
		}
		if want == 200 {
			want = 204
		}
		if r := w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: "POST", path: "/goodbye", body: body}); r.status != want {
			t.Errorf("goodbye with %q: %d %s", name, r.status, r.body)
		}
	}
}

// idOf is a token's jti.
func idOf(t *testing.T, token string) string {
	t.Helper()
	id, _ := idsOf(t, token)
	return id
}
