package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// topics of examples, each with a test that sends them.
const (
	aboutKinds        = "kinds that a user writes"
	aboutObservations = "what was observed of meshes, services and proxies"
	aboutZones        = "what was observed of zones"
	aboutControlPlane = "control planes and tokens"
)

// topic says which test sends an example; "": none.
func (r *replay) topic(e exchange) string {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil:
		return ""
	case ofControlPlane(u):
		return aboutControlPlane
	case strings.Contains(u.Path, "/zones+insights"):
		return aboutZones
	case strings.Contains(u.Path, "insights"):
		return aboutObservations
	}
	if _, ok := r.target(e); ok {
		return aboutKinds
	}
	return ""
}

// ofControlPlane says whether a URL is about a control plane itself, or of one of its older ports.
func ofControlPlane(u *url.URL) bool {
	return u.Port() != "5681" || slices.Contains([]string{"/config", "/versions", "/status/zones", "/tokens"}, u.Path)
}

// examples are those of a document, its slips mended.
func examples(t *testing.T, document string) []exchange {
	t.Helper()
	raw, err := transcripts.ReadFile("transcripts/testdata/" + document + ".json")
	must(t, raw, err)
	var all []exchange
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if s, ok := slips[fmt.Sprintf("%s:%d", document, all[i].Line)]; ok {
			part := s.part(&all[i])
			if !strings.Contains(*part, s.old) || s.old == "" && *part != "" {
				t.Fatalf("%s:%d has no such slip: %s", document, all[i].Line, s.why)
			}
			*part = strings.Replace(*part, s.old, s.new, 1)
		}
	}
	return all
}

// TestTranscriptsAreWhole counts the examples, of which each has a test that sends it.
func TestTranscriptsAreWhole(t *testing.T) {
	known := maps.Clone(slips)
	for document, want := range map[string]int{"1.1": 72, "0.6": 39, "0.4": 32} {
		r := &replay{t: t, table: resource.NewTable()}
		counts := map[string]int{}
		all := examples(t, document)
		for _, e := range all {
			id := fmt.Sprintf("%s:%d", document, e.Line)
			about := r.topic(e)
			if about == "" {
				t.Errorf("%s %s %s is sent by no test", id, e.Method, e.URL)
			}
			counts[about]++
			delete(known, id)
		}
		if len(all) != want {
			t.Errorf("%s: %d examples, there were %d", document, len(all), want)
		}
		t.Logf("%s: %d examples: %v", document, len(all), counts)
	}
	if len(known) > 0 {
		t.Errorf("slips that are no examples: %v", known)
	}
}

// elsewhere are the keys of the documents' /config that are not in ours, by what stands before them, with the reason.
// docs/compatibility.md tells of them.
var elsewhere = map[string]string{
	"adminServer.apis":     "tokens are always served",
	"adminServer.public":   "the API over HTTPS: apiServer.https",
	"apiServer.port":       "apiServer.http.port",
	"bootstrapServer":      "a path of dpServer",
	"dataplaneTokenServer": "adminServer",
	"discovery":            "nothing is polled",
	"guiServer":            "there is none",
	"reports":              "nothing is reported",
	"runtime.kubernetes":   "there is none",
	"sdsServer":            "a part of dpServer",
	"store.kubernetes":     "there is none",
	"store.postgres":       "there is none",
	"xdsServer":            "dpServer and diagnostics",
	"monitoringAssignmentServer.assignmentRefreshInterval": "nothing is polled",
}

// TestTranscriptsOfControlPlanes sends the examples about a control plane itself, and those that have tokens made.
func TestTranscriptsOfControlPlanes(t *testing.T) {
	for _, document := range []string{"1.1", "0.6", "0.4"} {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			all := examples(t, document)
			zone := inProcess{}.zone(t, zoneOptions{more: fmt.Sprintf("adminServer: {local: {enabled: true, port: %d}}\n", freePort(t))})
			sent := 0
			for _, e := range all {
				u, err := url.Parse(e.URL)
				must(t, u, err)
				if !ofControlPlane(u) {
					continue
				}
				sent++
				r := &replay{t: t, client: zone.client()}
				if u.Port() == "5679" {
					r.client = harness.NewClient(zone.addr("admin"))
				}
				switch u.Path {
				case "/config":
					err = r.config(e)
				case "/tokens":
					err = r.token(e, slips[fmt.Sprintf("%s:%d", document, e.Line)])
				case "/status/zones":
					err = zoneStatus(t, e)
				default:
					err = r.same(e, u.Path)
				}
				if err != nil {
					t.Errorf("%s:%d %s %s: %v", document, e.Line, e.Method, e.URL, err)
				}
			}
			if sent == 0 {
				t.Error("no example was sent")
			}
			t.Logf("%s: %d of %d examples are about control planes and tokens, and were sent", document, sent, len(all))
		})
	}
}

// same asks, and finds all that the example shows.
func (r *replay) same(e exchange, path string) error {
	var want, have any
	if err := json.Unmarshal([]byte(e.Answer), &want); err != nil {
		return fmt.Errorf("the answer of the document: %w", err)
	}
	if err := r.client.Get(within(r.t, 5*time.Second), path, &have); err != nil {
		return err
	}
	return shows("", want, have)
}

// config looks for the keys of the example, with values of the same type: the values are those of another machine.
func (r *replay) config(e exchange) error {
	var want, have map[string]any
	if err := json.Unmarshal([]byte(e.Answer), &want); err != nil {
		return fmt.Errorf("the answer of the document: %w", err)
	}
	if err := r.client.Get(within(r.t, 5*time.Second), "/config", &have); err != nil {
		return err
	}
	var errs []error
	found := 0
	var walk func(prefix string, want, have map[string]any)
	walk = func(prefix string, want, have map[string]any) {
		for key, v := range want {
			path := prefix + key
			other, ok := have[key]
			switch group, isGroup := v.(map[string]any); {
			case elsewhere[path] != "":
				if ok {
					errs = append(errs, fmt.Errorf("%s is there, and said not to be", path))
				}
			case isGroup:
				deeper, _ := other.(map[string]any)
				walk(path+".", group, deeper)
			case !ok || reflect.TypeOf(other) != reflect.TypeOf(v):
				errs = append(errs, fmt.Errorf("%s is %v, and %v in the example", path, other, v))
			default:
				found++
			}
		}
	}
	walk("", want, have)
	if found < 8 || have["mode"] != "standalone" || have["environment"] != want["environment"] {
		errs = append(errs, fmt.Errorf("%d keys found, mode %v, environment %v", found, have["mode"], have["environment"]))
	}
	return errors.Join(errs...)
}

// token has a token made as the example does, and reads what it says.
func (r *replay) token(e exchange, s slip) error {
	body := e.Body
	if s.why != "" {
		// As it stands it is refused.
		shown := strings.Replace(body, s.new, s.old, 1)
		if status, err := r.status(r.t.Context(), e.Method, "/tokens", shown, e.Headers); err != nil || status != http.StatusBadRequest {
			return fmt.Errorf("as it stands: %d, %w", status, err)
		}
	}
	var want map[string]any
	if err := json.Unmarshal([]byte(body), &want); err != nil {
		return fmt.Errorf("the body of the document: %w", err)
	}
	// Clients send it with any content type, or none.
	for _, contentType := range []string{"", "application/json", "application/x-www-form-urlencoded"} {
		raw, h, err := r.client.Do(within(r.t, 5*time.Second), e.Method, "/tokens", body, "Content-Type", contentType)
		if err != nil {
			return fmt.Errorf("content type %q: %w", contentType, err)
		}
		if got := h.Get("Content-Type"); got != "text/plain" {
			return fmt.Errorf("the token comes as %q", got)
		}
		parts := strings.Split(string(raw), ".")
		if len(parts) != 3 {
			return fmt.Errorf("%q is no token", raw)
		}
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return err
		}
		var have struct{ Name, Mesh, Tags any }
		if err := json.Unmarshal(claims, &have); err != nil {
			return err
		}
		tags := want["tags"]
		if tags == nil {
			tags = map[string]any{}
		}
		if diff := cmp.Diff([]any{want["name"], want["mesh"], tags}, []any{have.Name, have.Mesh, have.Tags}); diff != "" {
			return errors.New(diff)
		}
	}
	return nil
}

// zoneStatus makes the zones of the example at a global control plane: each has a session, which ends unless it is
// active. The addresses are other ones, in the same form.
func zoneStatus(t *testing.T, e exchange) error {
	t.Helper()
	var want []map[string]any
	if err := json.Unmarshal([]byte(e.Answer), &want); err != nil {
		return fmt.Errorf("the answer of the document: %w", err)
	}
	global := inProcess{}.global(t)
	var none []any
	if err := global.client().Get(within(t, 5*time.Second), "/status/zones", &none); err != nil || none == nil || len(none) > 0 {
		return fmt.Errorf("without zones: %v, %w", none, err)
	}
	have := func(ctx context.Context, want []map[string]any) error {
		var all []map[string]any
		if err := global.client().Get(ctx, "/status/zones", &all); err != nil {
			return err
		}
		for _, z := range all {
			u, err := url.Parse(fmt.Sprint(z["url"]))
			if err != nil || u.Scheme != "grpcs" || u.Hostname() == "" || u.Port() == "" {
				return fmt.Errorf("the URL of %v is %v", z["name"], z["url"])
			}
			delete(z, "url")
		}
		if diff := cmp.Diff(want, all); diff != "" {
			return errors.New(diff)
		}
		return nil
	}
	var online []map[string]any
	var stop []controlPlane
	for _, z := range want {
		delete(z, "url")
		name := z["name"].(string)
		cp := inProcess{}.zone(t, zoneOptions{name: name, global: global})
		if z["active"] == false {
			stop = append(stop, cp)
		}
		online = append(online, map[string]any{"name": name, "active": true})
	}
	until(t, 10*time.Second, "all zones have sessions", func(ctx context.Context) error { return have(ctx, online) })
	for _, cp := range stop {
		cp.stop(t)
	}
	until(t, 10*time.Second, "it is as the example shows", func(ctx context.Context) error { return have(ctx, want) })
	return nil
}
