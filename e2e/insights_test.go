package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/simulated"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// observer is a standalone zone with proxies, for examples that show what was observed.
type observer struct {
	*replay
	zone   controlPlane
	roots  *x509.CertPool
	tokens map[string]string
	// done are the meshes and the examples that have their proxies.
	done map[string]bool
}

// TestTranscriptsOfInsights sends the examples about what was observed of meshes, services and proxies. What is no
// number, time or id of the document's own is to be as it shows; of those it is to have the same form.
func TestTranscriptsOfInsights(t *testing.T) {
	table := resource.NewTable()
	for _, document := range []string{"1.1", "0.6", "0.4"} {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			all := examples(t, document)
			zone := inProcess{}.zone(t, zoneOptions{})
			pem, err := os.ReadFile(zone.caFile())
			must(t, pem, err)
			o := &observer{
				replay: &replay{t: t, client: zone.client(), table: table, bodies: map[*resource.Descriptor]map[string]any{}},
				zone:   zone, roots: x509.NewCertPool(), tokens: map[string]string{}, done: map[string]bool{},
			}
			o.roots.AppendCertsFromPEM(pem)
			sent := 0
			for _, e := range all {
				if o.topic(e) != aboutObservations {
					continue
				}
				sent++
				var example map[string]any
				if err := json.Unmarshal([]byte(e.Answer), &example); err != nil {
					t.Fatalf("%s:%d: %v", document, e.Line, err)
				}
				u, err := url.Parse(e.URL)
				must(t, u, err)
				what := fmt.Sprintf("%s:%d %s", document, e.Line, u.Path)
				if err := o.prepare(within(t, 10*time.Second), example); err != nil {
					t.Fatalf("%s: what it needs: %v", what, err)
				}
				until(t, 10*time.Second, what, func(ctx context.Context) error { return o.ask(ctx, u.Path, example) })
			}
			if sent == 0 {
				t.Error("no example was sent")
			}
			t.Logf("%s: %d of %d examples are about what was observed of meshes, services and proxies, and were sent", document, sent, len(all))
		})
	}
}

// items are the objects of an example: itself, or those of its list.
func items(example map[string]any) []map[string]any {
	list, ok := example["items"].([]any)
	if !ok {
		return []map[string]any{example}
	}
	var out []map[string]any
	for _, item := range list {
		out = append(out, item.(map[string]any))
	}
	return out
}

// prepare makes what an example shows: the meshes with their proxies, or the dataplanes with a proxy each.
func (o *observer) prepare(ctx context.Context, example map[string]any) error {
	for _, item := range items(example) {
		mesh, _ := item["mesh"].(string)
		name, _ := item["name"].(string)
		if mesh == "" {
			mesh = name
		}
		if o.done[mesh+"."+name] {
			continue
		}
		o.done[mesh+"."+name] = true
		if err := o.have(ctx, "/meshes/"+mesh, map[string]any{"type": "Mesh", "name": mesh}); err != nil {
			return err
		}
		if item["dataplane"] == nil {
			if err := o.populate(ctx, mesh); err != nil {
				return err
			}
			continue
		}
		if err := o.write(ctx, item); err != nil {
			return err
		}
		if err := o.connect(ctx, mesh, name, simulated.Options{}); err != nil {
			return err
		}
	}
	return nil
}

// write writes the dataplane of an overview.
func (o *observer) write(ctx context.Context, item map[string]any) error {
	d, _ := o.table.ByKind(resource.KindDataplane)
	path := fmt.Sprintf("/meshes/%s/dataplanes/%s", item["mesh"], item["name"])
	_, err := o.client.Put(ctx, path, written(d, item, item["dataplane"].(map[string]any)))
	return err
}

// populate makes proxies of all versions that the examples show: online, partially degraded, and one that never came.
func (o *observer) populate(ctx context.Context, mesh string) error {
	if o.done[mesh] {
		return nil
	}
	o.done[mesh] = true
	inbound := func(port int, service string, ready bool) map[string]any {
		return map[string]any{"port": port, "tags": map[string]any{"kuma.io/service": service}, "health": map[string]any{"ready": ready}}
	}
	register := func(name string, inbounds ...map[string]any) error {
		return o.have(ctx, "/meshes/"+mesh+"/dataplanes/"+name, map[string]any{
			"type": "Dataplane", "mesh": mesh, "name": name, "networking": map[string]any{"address": "127.0.0.1", "inbound": inbounds},
		})
	}
	if err := register("never", inbound(1000, "backend", true), inbound(1001, "backend-api", true)); err != nil {
		return err
	}
	for i, v := range []simulated.Options{
		{DataplaneVersion: "1.0.0-rc2-119-g50e35395", EnvoyVersion: "1.15.0"}, {DataplaneVersion: "1.0.4", EnvoyVersion: "1.15.0"}, {},
	} {
		up, half := fmt.Sprintf("up-%d", i), fmt.Sprintf("half-%d", i)
		if err := errors.Join(
			register(up, inbound(1000, "backend", true), inbound(1001, "backend-api", true)),
			register(half, inbound(1000, "backend", true), inbound(1001, "backend-api", false)),
		); err != nil {
			return err
		}
		for _, name := range []string{up, half} {
			if err := o.connect(ctx, mesh, name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect starts a proxy for a dataplane that is there, and waits until it is served.
func (o *observer) connect(ctx context.Context, mesh, name string, s simulated.Options) error {
	if o.tokens[mesh] == "" {
		token, err := o.client.DataplaneToken(ctx, mesh, "")
		if err != nil {
			return err
		}
		o.tokens[mesh] = token
	}
	s.Address, s.Roots, s.Token, s.Node = o.zone.addr("dpServer"), o.roots, o.tokens[mesh], mesh+"."+name
	p, err := simulated.Start(s)
	if err != nil {
		return err
	}
	o.t.Cleanup(p.Close)
	select {
	case <-p.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s got no configuration: %w", name, p.Err())
	}
}

// ask sends an example's request and compares the answer.
func (o *observer) ask(ctx context.Context, path string, example map[string]any) error {
	for _, item := range items(example) {
		if item["dataplane"] != nil {
			// Written again, it takes the proxy's counters along into its insight, which else come after a while.
			if err := o.write(ctx, item); err != nil {
				return err
			}
		}
	}
	var answer map[string]any
	if err := o.client.Get(ctx, path, &answer); err != nil {
		return err
	}
	if _, list := example["items"]; !list {
		return o.same(example, answer)
	}
	for key := range example {
		if _, ok := answer[key]; !ok {
			return fmt.Errorf("the answer has no %q", key)
		}
	}
	given := items(answer)
	if total, ok := answer["total"].(float64); !ok || int(total) != len(given) {
		return fmt.Errorf("total is %v of %d", answer["total"], len(given))
	}
	for _, want := range items(example) {
		i := slices.IndexFunc(given, func(m map[string]any) bool { return m["name"] == want["name"] && m["mesh"] == want["mesh"] })
		if i < 0 {
			return fmt.Errorf("%v is not in the list", want["name"])
		}
		if err := o.same(want, given[i]); err != nil {
			return fmt.Errorf("%v: %w", want["name"], err)
		}
	}
	return nil
}

// same compares one object with what an example shows of it.
func (o *observer) same(want, have map[string]any) error {
	want = maps.Clone(want)
	for part, kind := range map[string]resource.Kind{"dataplane": resource.KindDataplane, "zone": resource.KindZone} {
		shown, ok := want[part].(map[string]any)
		if !ok {
			continue
		}
		// What a user wrote is compared as everywhere: in the shape of today, and by its values.
		d, _ := o.table.ByKind(kind)
		given, _ := have[part].(map[string]any)
		if err := o.holds(d, written(d, want, shown), written(d, want, given)); err != nil {
			return fmt.Errorf("%s%w", part, err)
		}
		delete(want, part)
	}
	for _, key := range []string{"type", "mesh", "name", "status"} {
		if shown, ok := want[key]; ok && shown != have[key] {
			return fmt.Errorf("%s is %v instead of %v", key, have[key], shown)
		}
	}
	return formed("", want, have)
}

// written is a part of an overview as it is written.
func written(d *resource.Descriptor, overview, part map[string]any) map[string]any {
	body := map[string]any{"type": string(d.Kind), "name": overview["name"]}
	if d.Scope == resource.ScopeMesh {
		body["mesh"] = overview["mesh"]
	}
	maps.Copy(body, part)
	return body
}

// formed says what of want is missing in have, or has another form there.
func formed(at string, want, have any) error {
	switch want := want.(type) {
	case map[string]any:
		m, ok := have.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v", at, have)
		}
		for k, v := range want {
			other, ok := m[k]
			if !ok {
				return fmt.Errorf("%s.%s is missing in %v", at, k, have)
			}
			if err := formed(at+"."+k, v, other); err != nil {
				return err
			}
		}
		return nil
	case []any:
		l, ok := have.([]any)
		if !ok || len(l) < len(want) {
			return fmt.Errorf("%s is %v", at, have)
		}
		for i := range want {
			if err := formed(fmt.Sprintf("%s[%d]", at, i), want[i], l[i]); err != nil {
				return err
			}
		}
		return nil
	case float64:
		if n, ok := have.(float64); !ok || n <= 0 {
			return fmt.Errorf("%s is %v, and %v in the example", at, have, want)
		}
		return nil
	case string:
		s, ok := have.(string)
		if !ok || !alike(want, s) {
			return fmt.Errorf("%s is %v, and %v in the example", at, have, want)
		}
		return nil
	}
	return fmt.Errorf("%s: nothing is known of a %T", at, want)
}

// alike says whether both strings are times, or numbers, or neither.
func alike(a, b string) bool {
	if _, err := time.Parse(time.RFC3339Nano, a); err == nil {
		_, err = time.Parse(time.RFC3339Nano, b)
		return err == nil
	}
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	return digits(a) == digits(b) && b != ""
}

// TestTranscriptsOfZones sends the examples about what was observed of zones to a global control plane that has the
// objects of all other examples, after a zone has had a session with it.
func TestTranscriptsOfZones(t *testing.T) {
	all := examples(t, "1.1")
	global := inProcess{}.global(t)
	o := &observer{replay: &replay{t: t, client: global.client(), table: resource.NewTable(), bodies: map[*resource.Descriptor]map[string]any{}}}
	for _, e := range all {
		if o.topic(e) != aboutKinds || e.Method != http.MethodPut {
			continue
		}
		target, _ := o.target(e)
		if target.d.Writable != resource.WritableOnGlobal {
			continue
		}
		if err := o.play(e, target); err != nil {
			t.Fatalf("1.1:%d: %v", e.Line, err)
		}
	}
	// The only kind of which the document writes none.
	put(t, global, "/meshes/default/circuit-breakers/cb", `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"detectors":{"totalErrors":{}}}}`)
	sent := 0
	for _, e := range all {
		if o.topic(e) != aboutZones {
			continue
		}
		sent++
		var example map[string]any
		if err := json.Unmarshal([]byte(e.Answer), &example); err != nil {
			t.Fatalf("1.1:%d: %v", e.Line, err)
		}
		u, err := url.Parse(e.URL)
		must(t, u, err)
		for _, item := range items(example) {
			d, _ := o.table.ByKind(resource.KindZone)
			name := item["name"].(string)
			head, err := o.client.Put(within(t, 10*time.Second), "/zones/"+name, written(d, item, item["zone"].(map[string]any)))
			must(t, head, err)
			zone := inProcess{}.zone(t, zoneOptions{name: name, global: global})
			until(t, 10*time.Second, "the zone has it all", func(ctx context.Context) error {
				p, err := o.client.ZonePosition(ctx, name)
				if err == nil && p.Applied < head {
					err = fmt.Errorf("it is at %d of %d", p.Applied, head)
				}
				return err
			})
			zone.stop(t) // with the end of a session all that was counted in it is written
			// Of the sessions that it shows, each is to be like the one that there was; and dataplanes go up only.
			for _, s := range item["zoneInsight"].(map[string]any)["subscriptions"].([]any) {
				if stat, ok := s.(map[string]any)["status"].(map[string]any)["stat"].(map[string]any); ok {
					delete(stat, "Dataplane")
				}
				one := maps.Clone(item)
				one["zoneInsight"] = map[string]any{"subscriptions": []any{s}}
				asked := one
				if _, list := example["items"]; list {
					asked = maps.Clone(example)
					asked["items"] = []any{one}
				}
				until(t, 10*time.Second, fmt.Sprintf("1.1:%d %s", e.Line, u.Path), func(ctx context.Context) error { return o.ask(ctx, u.Path, asked) })
			}
		}
	}
	if sent == 0 {
		t.Error("no example was sent")
	}
	t.Logf("1.1: %d of %d examples are about what was observed of zones, and were sent", sent, len(all))
}

// TestInsightsFollowProxies connects, degrades and stops proxies of a zone, and reads what its own control plane and
// the global one make of that.
func TestInsightsFollowProxies(t *testing.T) { inBoth(t, testInsightsFollowProxies) }

func testInsightsFollowProxies(t *testing.T, w world) {
	global := w.global(t)
	zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
	token := dataplaneToken(t, zone, "")
	half := func(ready bool) string {
		return fmt.Sprintf(`{"type":"Dataplane","mesh":"default","name":"half","networking":{"address":"127.0.0.1","inbound":[
			{"port":%d,"servicePort":%d,"tags":{"kuma.io/service":"front"}},
			{"port":%d,"servicePort":%d,"tags":{"kuma.io/service":"side"},"health":{"ready":%t}}]}}`,
			freePort(t), freePort(t), freePort(t), freePort(t), ready)
	}
	// says waits until both control planes say the same: of all proxies, and of each service.
	says := func(what, proxies string, services map[string]string) {
		t.Helper()
		for _, cp := range []controlPlane{global, zone} {
			until(t, 5*time.Second, what, func(ctx context.Context) error {
				var mesh struct {
					Dataplanes json.RawMessage
					DpVersions map[string]map[string]struct{ Total int }
				}
				if err := cp.client().Get(ctx, "/mesh-insights/default", &mesh); err != nil {
					return err
				}
				if got := squeezed(mesh.Dataplanes); got != proxies {
					return fmt.Errorf("the mesh has %s", got)
				}
				if _, real := w.(processes); real && strings.Contains(proxies, "online") && mesh.DpVersions["envoy"]["1.40.0"].Total == 0 {
					return fmt.Errorf("versions: %v", mesh.DpVersions)
				}
				for name, want := range services {
					var s struct {
						Status     string
						Dataplanes json.RawMessage
					}
					if err := cp.client().Get(ctx, "/meshes/default/service-insights/"+name, &s); err != nil {
						return err
					}
					if got := s.Status + squeezed(s.Dataplanes); got != want {
						return fmt.Errorf("%s has %s", name, got)
					}
				}
				all, err := list(ctx, cp, "/service-insights")
				if there := slices.DeleteFunc(slices.Collect(maps.Values(services)), func(s string) bool { return s == "{}" }); err == nil && len(all) != len(there) {
					err = fmt.Errorf("services: %v", all)
				}
				return err
			})
		}
	}
	put(t, zone, "/meshes/default/dataplanes/half", half(true))
	says("one that never came", `{"total":1,"offline":1}`, map[string]string{"front": `offline{"total":1,"offline":1}`, "side": `offline{"total":1,"offline":1}`, "backend": `{}`})
	p := w.proxy(t, zone, proxyOptions{name: "half", token: token})
	backend := w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v1"), token: token})
	online := `online{"total":1,"online":1}`
	says("both are there", `{"total":2,"online":2}`, map[string]string{"front": online, "side": online, "backend": online})
	put(t, zone, "/meshes/default/dataplanes/half", half(false))
	says("one is degraded", `{"total":2,"online":1,"partiallyDegraded":1}`, map[string]string{"front": online, "side": `offline{"total":1,"offline":1}`, "backend": online})
	p.kill(t)
	says("one is gone", `{"total":2,"online":1,"offline":1}`, map[string]string{"front": `offline{"total":1,"offline":1}`, "side": `offline{"total":1,"offline":1}`, "backend": online})
	backend.stop(t)
	says("the other went with its dataplane", `{"total":1,"offline":1}`, map[string]string{"front": `offline{"total":1,"offline":1}`, "side": `offline{"total":1,"offline":1}`, "backend": `{}`})
}

// squeezed is JSON without spaces.
func squeezed(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return err.Error()
	}
	return b.String()
}
