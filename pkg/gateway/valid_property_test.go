package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/resource/resourcetest"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// olderMesh is where objects of older eras go: a mesh there has another authority than one of the present era.
const olderMesh = "older"

// startAlone starts a control plane on which every kind is written.
func startAlone(t testing.TB) *plane {
	p := start(t, setup{api: api.Options{Mode: api.Standalone, Zone: "default"}})
	p.mesh(olderMesh)
	return p
}

// placeOf is a key of a kind, and its path.
func placeOf(d *resource.Descriptor, mesh string) (resource.Key, string) {
	switch {
	case d.Kind == resource.KindMesh:
		return resource.Key{Kind: d.Kind, Name: mesh}, "/meshes/" + mesh
	case d.Scope == resource.ScopeGlobal:
		return resource.Key{Kind: d.Kind, Name: "a-" + mesh}, "/" + d.Plural + "/a-" + mesh
	}
	return resource.Key{Kind: d.Kind, Scope: mesh, Name: "a"}, "/meshes/" + mesh + "/" + d.Plural + "/a"
}

// treeOf is the JSON of an object as maps and lists.
func treeOf(t testing.TB, d *resource.Descriptor, k resource.Key, m proto.Message) map[string]any {
	t.Helper()
	spec, err := resource.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	b, err := resource.EncodeJSON(d, &resource.Object{Key: k, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

func jsonOf(t testing.TB, tree any) string {
	t.Helper()
	b, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// yamlOf writes block YAML.
func yamlOf(t testing.TB, v any, indent string) string {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return " {}\n"
		}
		out := "\n"
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out += indent + jsonOf(t, k) + ":" + yamlOf(t, v[k], indent+"  ")
		}
		return out
	case []any:
		if len(v) == 0 {
			return " []\n"
		}
		out := "\n"
		for _, x := range v {
			out += indent + "-" + yamlOf(t, x, indent+"  ")
		}
		return out
	case string:
		if strings.HasSuffix(v, "\n") && !strings.HasPrefix(v, " ") && strings.TrimRight(v, "\n")+"\n" == v && !strings.ContainsAny(v, "\t\r") {
			out := " |\n"
			for l := range strings.Lines(v) {
				out += indent + l
			}
			return out
		}
	}
	return " " + jsonOf(t, v) + "\n"
}

// putAndGet writes a body, reads it back and compares. It says what the answer warned of.
func (p *plane) putAndGet(t testing.TB, d *resource.Descriptor, path, contentType, body string, want proto.Message) []string {
	t.Helper()
	put, _ := p.serve(t, "PUT", path, contentType, body)
	if put.Code != 200 && put.Code != 201 {
		t.Fatalf("PUT %s: %d %s\n%s", path, put.Code, put.Body, body)
	}
	got, _ := p.serve(t, "GET", path, "", "")
	in, err := resource.DecodeJSON(d, got.Body.Bytes())
	if err != nil {
		t.Fatalf("GET %s: %v in %s", path, err, got.Body)
	}
	if diff := cmp.Diff(want, in.Spec, protocmp.Transform()); diff != "" {
		t.Fatalf("PUT and GET %s: %s\n%s", path, diff, body)
	}
	// What was answered is as good a body.
	again, _ := p.serve(t, "PUT", path, "application/json", got.Body.String())
	if again.Code != 200 || again.Header().Get("Warning") != "" {
		t.Fatalf("PUT %s of what it answered: %d %s\n%s", path, again.Code, again.Body, got.Body)
	}
	same, _ := p.serve(t, "GET", path, "", "")
	if diff := cmp.Diff(withoutTimes(t, got.Body.Bytes()), withoutTimes(t, same.Body.Bytes())); diff != "" {
		t.Fatalf("PUT %s of what it answered: %s", path, diff)
	}
	return put.Header()["Warning"]
}

func withoutTimes(t testing.TB, body []byte) map[string]any {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(body, &tree); err != nil {
		t.Fatal(err)
	}
	delete(tree, "modificationTime")
	return tree
}

// survives draws a valid object of a kind and sees that it is read as it was written, in JSON, YAML and the shape of
// an older era; it says whether it has one.
func (p *plane) survives(t testing.TB, d *resource.Descriptor, seed uint64) (hasOlder bool) {
	t.Helper()
	k, path := placeOf(d, "default")
	m := resourcetest.Valid(t, d, k, seed)
	want := proto.Clone(m)
	if d.Default != nil {
		d.Default(k, want)
	}
	tree := treeOf(t, d, k, m)
	for contentType, body := range map[string]string{"application/json": jsonOf(t, tree), "application/yaml": "---" + yamlOf(t, tree, "")} {
		if w := p.putAndGet(t, d, path, contentType, body, want); len(w) > 0 {
			t.Fatalf("PUT %s warns: %q\n%s", path, w, body)
		}
	}

	k, path = placeOf(d, olderMesh)
	fit(m)
	want = proto.Clone(m)
	if d.Default != nil {
		d.Default(k, want)
	}
	if d.Validate != nil && len(d.Validate(k, want)) > 0 {
		return false
	}
	tree = treeOf(t, d, k, m)
	before := jsonOf(t, tree)
	older(d.Kind, tree)
	body := jsonOf(t, tree)
	if body == before {
		return false
	}
	if w := p.putAndGet(t, d, path, "", body, want); len(w) == 0 {
		t.Fatalf("PUT %s does not say what it converted\n%s", path, body)
	}
	return true
}

// fit leaves out of a message what its kind did not have in older eras.
func fit(m proto.Message) {
	switch m := m.(type) {
	case *meshv1.Mesh:
		if t := m.GetMtls(); len(t.GetBackends()) > 0 {
			t.Backends = []*meshv1.CertificateAuthorityBackend{{Name: "builtin", Type: "builtin"}}
			if t.EnabledBackend != "" {
				t.EnabledBackend = "builtin"
			}
		}
		if t := m.GetMetrics(); len(t.GetBackends()) > 0 {
			t.Backends, t.EnabledBackend = t.Backends[:1], "prometheus"
			t.Backends[0].Name = "prometheus"
			delete(t.Backends[0].GetConf().GetFields(), "tags")
			delete(t.Backends[0].GetConf().GetFields(), "skipMTLS")
			if t.Backends[0].Conf == nil {
				t.Backends[0].Conf = &structpb.Struct{}
			}
		}
		for _, b := range m.GetTracing().GetBackends() {
			delete(b.GetConf().GetFields(), "sharedSpanContext")
		}
	case *meshv1.Dataplane:
		if t := m.GetNetworking().GetTransparentProxying(); t != nil {
			t.RedirectPortOutbound = t.RedirectPortInbound
		}
		for i, in := range m.GetNetworking().GetInbound() {
			in.ServiceAddress = ""
			if i == 0 || in.Address == m.GetNetworking().GetAddress() {
				in.Address = ""
			}
		}
	case *meshv1.TrafficRoute:
		m.Conf.LoadBalancer = nil
	case *meshv1.HealthCheck:
		c := m.Conf
		m.Conf = &meshv1.HealthCheck_Conf{Interval: c.Interval, Timeout: c.Timeout, HealthyThreshold: c.HealthyThreshold, UnhealthyThreshold: c.UnhealthyThreshold}
	}
}

// older brings the tree of an object that fits into the shape of an older era, as far as it can be.
func older(k resource.Kind, tree map[string]any) {
	olderTags(tree)
	each := func(v any, f func(map[string]any)) {
		list, _ := v.([]any)
		for _, x := range list {
			f(x.(map[string]any))
		}
	}
	switch k {
	case resource.KindMesh:
		if t, ok := tree["mtls"].(map[string]any); ok && t["backends"] != nil {
			tree["mtls"] = map[string]any{"enabled": t["enabledBackend"] != nil, "ca": map[string]any{"builtin": map[string]any{}}}
		}
		if t, ok := tree["metrics"].(map[string]any); ok && t["backends"] != nil {
			tree["metrics"] = map[string]any{"prometheus": t["backends"].([]any)[0].(map[string]any)["conf"]}
		}
		for _, section := range []string{"logging", "tracing"} {
			t, _ := tree[section].(map[string]any)
			each(t["backends"], func(b map[string]any) {
				b[b["type"].(string)] = b["conf"]
				delete(b, "type")
				delete(b, "conf")
			})
		}
	case resource.KindTrafficRoute:
		tree["conf"] = tree["conf"].(map[string]any)["split"]
	case resource.KindHealthCheck:
		tree["conf"] = map[string]any{"activeChecks": tree["conf"]}
	case resource.KindDataplane:
		n := tree["networking"].(map[string]any)
		each(n["outbound"], func(out map[string]any) {
			host, _ := out["address"].(string)
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			out["interface"] = host + ":" + fmt.Sprint(out["port"])
			delete(out, "address")
			delete(out, "port")
		})
		if t, ok := n["transparentProxying"].(map[string]any); ok && t["redirectPortInbound"] != nil {
			t["redirectPort"] = t["redirectPortInbound"]
			delete(t, "redirectPortInbound")
			delete(t, "redirectPortOutbound")
		}
		olderInbounds(n)
	}
}

// olderInbounds writes interfaces, if each inbound can be one.
func olderInbounds(n map[string]any) {
	inbounds, _ := n["inbound"].([]any)
	if net.ParseIP(fmt.Sprint(n["address"])) == nil || len(inbounds) == 0 {
		return
	}
	for _, x := range inbounds {
		if x.(map[string]any)["servicePort"] == nil {
			return
		}
	}
	for _, x := range inbounds {
		in := x.(map[string]any)
		host, ok := in["address"].(string)
		if !ok {
			host = n["address"].(string)
		}
		in["interface"] = fmt.Sprintf("%s:%v", net.JoinHostPort(host, fmt.Sprint(in["port"])), in["servicePort"])
		delete(in, "address")
		delete(in, "port")
		delete(in, "servicePort")
	}
	delete(n, "address")
}

// olderTags writes the well-known tags without their prefix, but in free objects, which had none.
func olderTags(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			olderTags(x)
		}
	case map[string]any:
		for k, x := range v {
			switch k {
			case "tags", "match", "destination":
				tags := x.(map[string]any)
				for _, name := range []string{"service", "protocol", "zone"} {
					if value, ok := tags["kuma.io/"+name]; ok {
						delete(tags, "kuma.io/"+name)
						tags[name] = value
					}
				}
			case "metrics":
			default:
				olderTags(x)
			}
		}
	}
}

// TestValidObjectsSurvive: any valid object of any kind that is written over REST is read as it was written.
func TestValidObjectsSurvive(t *testing.T) {
	p := startAlone(t)
	for i, d := range resourcetest.Written(resource.NewTable()) {
		older := 0
		for n := range 8 {
			if p.survives(t, d, uint64(i*1000+n)) {
				older++
			}
		}
		// What has tags has an older era.
		_, tagged := d.New().(interface{ GetSources() []*meshv1.Selector })
		if (tagged || d.Kind == resource.KindMesh || d.Kind == resource.KindDataplane) && older < 3 {
			t.Errorf("only %d of %s were of an older era", older, d.Kind)
		}
	}
}

func FuzzValidObjects(f *testing.F) {
	kinds := resourcetest.Written(resource.NewTable())
	for i := range kinds {
		f.Add(uint8(i), uint64(1000+i))
	}
	p := startAlone(f)
	f.Fuzz(func(t *testing.T, kind uint8, seed uint64) {
		p.survives(t, kinds[int(kind)%len(kinds)], seed)
	})
}

// mutant writes a tree as JSON with one place of it changed.
type mutant struct {
	*rand.Rand
	out bytes.Buffer
	// left is how many places are passed over before the one that is changed.
	left int
	how  int
}

// places counts the values below a tree.
func places(v any) int {
	n := 0
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			n += 1 + places(x)
		}
	case map[string]any:
		for _, x := range v {
			n += 1 + places(x)
		}
	}
	return n
}

var wrongLiterals = []string{
	"null", "true", "0", "-1", "1.5", "4294967296", "1e400", "-0", "99999999999999999999999999", `""`, `"x"`, `"0s"`, `"-1s"`, `"1h1h"`, "[]", "{}", "[[]]", `{"a":{"b":[1]}}`, `[null]`,
	`"` + "\xff\xfe" + `"`, `"\ud800"`, `"\u0000"`, `"*****"`, `"☃"`, `"a\u0000b"`, `"2021-01-01T00:00:00Z"`, `"🚀"`, `{"kuma.io/service":"*","service":"a"}`,
}

const mutations = 8

func (m *mutant) value(v any) {
	switch v := v.(type) {
	case []any:
		m.out.WriteByte('[')
		first := true
		for _, x := range v {
			m.member(&first, "", x)
		}
		m.out.WriteByte(']')
	case map[string]any:
		m.out.WriteByte('{')
		first := true
		for _, k := range slices.Sorted(maps.Keys(v)) {
			m.member(&first, k, v[k])
		}
		m.out.WriteByte('}')
	default:
		b, _ := json.Marshal(v)
		m.out.Write(b)
	}
}

// member writes what stands in a list, or, with a key, in an object.
func (m *mutant) member(first *bool, key string, v any) {
	write := func(key string, value func()) {
		if !*first {
			m.out.WriteByte(',')
		}
		*first = false
		if key != "" {
			m.out.WriteString(strconv.Quote(key) + ":")
		}
		value()
	}
	same := func() { m.value(v) }
	m.left--
	if m.left != -1 {
		write(key, same)
		return
	}
	switch m.how {
	case 0: // left out
	case 1: // twice
		write(key, same)
		write(key, same)
	case 2, 3, 4: // something else
		literal := wrongLiterals[m.IntN(len(wrongLiterals))]
		write(key, func() { m.out.WriteString(literal) })
	case 5: // under another name
		write([]string{key + "x", strings.ToUpper(key), "kuma.io/" + key, " " + key, "☃", strings.Repeat("k", 5000)}[m.IntN(6)], same)
	case 6: // deeper
		depth := []int{1, 60, 100, 20_000}[m.IntN(4)]
		write(key, func() {
			m.out.WriteString(strings.Repeat(`[`, depth))
			m.value(v)
			m.out.WriteString(strings.Repeat(`]`, depth))
		})
	case 7: // very many
		write(key, func() { m.out.WriteString("[" + strings.Repeat("{},", 2000) + "{}]") })
	}
}

// mutation changes a body of a valid object, and says of which type it is.
func mutation(r *rand.Rand, tree map[string]any) (contentType, body string) {
	m := &mutant{Rand: r, left: r.IntN(places(tree)), how: r.IntN(mutations)}
	m.value(tree)
	body = m.out.String()
	contentType = []string{"application/json", "", "application/yaml", "application/json; charset=utf-8"}[r.IntN(4)]
	switch r.IntN(10) {
	case 0:
		body = body[:r.IntN(len(body))]
	case 1:
		contentType = []string{"text/plain", "application/xml", ";", "application/", "application/json; =", "multipart/form-data"}[r.IntN(6)]
	case 2:
		body += []string{"{}", "\x00", "\n---\n{}", "]", " ", "\ufeff"}[r.IntN(6)]
	case 3:
		at := r.IntN(len(body))
		body = body[:at] + string([]byte{byte(r.IntN(256))}) + body[at+1:]
	}
	return contentType, body
}

// endures sends a mutation of a valid body: it is taken, or refused with reasons and without a trace.
func (p *plane) endures(t testing.TB, d *resource.Descriptor, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	k, path := placeOf(d, "default")
	tree := treeOf(t, d, k, resourcetest.Valid(t, d, k, seed%64))
	if r.IntN(2) == 0 {
		older(d.Kind, tree)
	}
	contentType, body := mutation(r, tree)
	config, status := p.store.Config().View().Revision(), p.store.Status().View().Revision()
	res, _ := p.serve(t, "PUT", path, contentType, body)
	switch {
	case res.Code == 200 || res.Code == 201:
		return
	case res.Code >= 500 || res.Code < 400:
		t.Fatalf("PUT %s as %q: %d %s\n%.2000s", path, contentType, res.Code, res.Body, body)
	case p.store.Config().View().Revision() != config || p.store.Status().View().Revision() != status:
		t.Fatalf("PUT %s as %q was refused (%d), and something was written\n%.2000s", path, contentType, res.Code, body)
	case res.Code == 415:
		return
	}
	var got problem
	if err := json.Unmarshal(res.Body.Bytes(), &got); err != nil || got.Title == "" || got.Details == "" {
		t.Fatalf("PUT %s: %d %s", path, res.Code, res.Body)
	}
	for _, c := range got.Causes {
		if c.Message == "" || c.Field == "" {
			t.Fatalf("PUT %s: a cause without a field or a reason: %s\n%.2000s", path, res.Body, body)
		}
	}
}

// TestMutationsAreBorne: no mutation of a valid body brings the server into trouble, or leaves half of itself.
func TestMutationsAreBorne(t *testing.T) {
	p := startAlone(t)
	for i, d := range resourcetest.Written(resource.NewTable()) {
		for n := range 20 {
			p.endures(t, d, uint64(i*1000+n))
		}
	}
}

func FuzzMutations(f *testing.F) {
	kinds := resourcetest.Written(resource.NewTable())
	for i := range kinds {
		f.Add(uint8(i), uint64(1000+i))
	}
	p := startAlone(f)
	f.Fuzz(func(t *testing.T, kind uint8, seed uint64) {
		p.endures(t, kinds[int(kind)%len(kinds)], seed)
	})
}

// TestEveryKindInOneBatch writes objects of every kind, which have every field between them, at once, and reads them
// as they were; what a copy of all has of them makes the same control plane anew.
func TestEveryKindInOneBatch(t *testing.T) {
	from, to := startAlone(t), start(t, setup{bare: true, api: api.Options{Mode: api.Standalone, Zone: "default"}})
	type written struct {
		d    *resource.Descriptor
		path string
		want proto.Message
	}
	var all []written
	var puts []string
	for _, d := range resourcetest.Written(resource.NewTable()) {
		for i, m := range resourcetest.Covering(t, d, resource.Key{Kind: d.Kind, Name: "a"}) {
			k := resource.Key{Kind: d.Kind, Name: fmt.Sprintf("%s-%d", strings.ToLower(string(d.Kind)), i)}
			path := "/" + d.Plural + "/" + k.Name
			switch {
			case d.Scope == resource.ScopeMesh:
				k.Scope, path = "default", "/meshes/default"+path
			case d.Kind == resource.KindMesh:
				from.mesh(k.Name) // without the cost of its keys
			}
			puts = append(puts, jsonOf(t, treeOf(t, d, k, m)))
			if d.Default != nil {
				d.Default(k, m)
			}
			all = append(all, written{d, path, m})
		}
	}
	read := func(p *plane) {
		t.Helper()
		for _, w := range all {
			in, err := resource.DecodeJSON(w.d, []byte(p.must(p.do("GET", w.path, ""), 200).body))
			if err != nil {
				t.Fatalf("%s: %v", w.path, err)
			}
			if diff := cmp.Diff(w.want, in.Spec, protocmp.Transform()); diff != "" {
				t.Errorf("%s: %s", w.path, diff)
			}
		}
	}
	from.must(from.put("/batch", batchOf(puts, nil)), 200)
	read(from)
	last := map[string]string{} // some meshes come twice, for those who write one document after the other
	for dec := json.NewDecoder(strings.NewReader(from.must(from.do("GET", "/export?secrets=true", ""), 200).body)); dec.More(); {
		var object json.RawMessage
		if err := dec.Decode(&object); err != nil {
			t.Fatal(err)
		}
		var of struct{ Type, Mesh, Name string }
		if err := json.Unmarshal(object, &of); err != nil {
			t.Fatal(err)
		}
		last[fmt.Sprint(of)] = string(object)
	}
	to.must(to.put("/batch", batchOf(slices.Collect(maps.Values(last)), nil)), 200)
	read(to)
	// The meshes that are new there bring what each new mesh does.
	brought := cmpopts.IgnoreMapEntries(func(k, _ string) bool {
		return strings.HasPrefix(k, "PublicKey") || strings.Contains(k, "signing-key") || strings.Contains(k, "-all-")
	})
	if diff := cmp.Diff(from.content(), to.content(), brought); diff != "" {
		t.Error(diff)
	}
}
