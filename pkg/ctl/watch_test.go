package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// following is a client of a server that answers its requests one after the other.
func following(t *testing.T, answers ...string) (cp *client, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := len(*asked)
		*asked = append(*asked, r.URL.String())
		status, body, _ := strings.Cut(answers[min(n, len(answers)-1)], " ")
		code := map[string]int{"ok": 200, "unauthorized": 401, "unavailable": 503}[status]
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	base, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &client{base: base, log: slog.New(slog.DiscardHandler), http: srv.Client()}, asked
}

const (
	putA    = "event: put\nid: 1\ndata: {\ndata:  \"type\": \"Timeout\",\ndata:  \"mesh\": \"default\",\ndata:  \"name\": \"a\"\ndata: }\n\n"
	deleteA = "event: delete\nid: 3\ndata: {\"type\":\"Timeout\",\"mesh\":\"default\",\"name\":\"a\",\"revision\":\"7\"}\n\n"
	zoneB   = "event: put\nid: 4\ndata: {\"type\":\"Zone\",\"name\":\"b\"}\n\n"
	synced  = "event: synced\nid: 2\ndata: {\"revision\": \"6\"}\n\n"
)

// TestWatch: events are shown as they come; after a break the watch goes on where it was; a refusal ends it.
func TestWatch(t *testing.T) {
	table := resource.NewTable()
	for _, tc := range []struct {
		kind    resource.Kind
		name    string
		output  string
		answers []string
		want    string
		asked   []string
	}{
		{
			resource.KindTimeout, "", "table",
			[]string{"ok " + putA + synced + ":\nid: x\n\nevent: put\ndata: {half", "ok event: reset\ndata: {}\n\n" + putA + deleteA, "unauthorized no"},
			"put    Timeout default/a\nsynced revision 6\nreset\nput    Timeout default/a\ndelete Timeout default/a revision 7\n",
			[]string{"/meshes/default/timeouts?watch=true", "/meshes/default/timeouts?after=x&watch=true", "/meshes/default/timeouts?after=3&watch=true"},
		},
		{
			resource.KindTimeout, "a", "json",
			[]string{"ok " + deleteA, "unauthorized no"},
			"{\n \"event\": \"delete\",\n \"data\": {\n  \"type\": \"Timeout\",\n  \"mesh\": \"default\",\n  \"name\": \"a\",\n  \"revision\": \"7\"\n }\n}\n",
			[]string{"/meshes/default/timeouts/a?watch=true", "/meshes/default/timeouts/a?after=3&watch=true"},
		},
		{resource.KindZone, "b", "yaml", []string{"ok " + zoneB, "unauthorized no"}, "---\nevent: put\ndata:\n  type: Zone\n  name: b\n", []string{"/zones/b?watch=true", "/zones/b?after=4&watch=true"}},
		{
			resource.KindMesh, "m", "table",
			[]string{"ok " + strings.ReplaceAll(zoneB, "Zone", "Mesh") + strings.ReplaceAll(strings.ReplaceAll(zoneB, "Zone", "Mesh"), `"b"`, `"m"`) + synced, "unauthorized no"},
			"put    Mesh m\nsynced revision 6\n",
			[]string{"/meshes?watch=true", "/meshes?after=2&watch=true"},
		},
		{resource.KindZone, "", "table", []string{"unavailable no"}, "", []string{"/zones?watch=true"}},
	} {
		cp, asked := following(t, tc.answers...)
		d, _ := table.ByKind(tc.kind)
		var out bytes.Buffer
		c := &cobra.Command{}
		c.SetOut(&out)
		c.SetContext(t.Context())
		var names []string
		if tc.name != "" {
			names = []string{tc.name}
		}
		err := (&tool{mesh: "default", output: tc.output}).watch(c, cp, d, names)
		if refused := (*APIError)(nil); !errors.As(err, &refused) {
			t.Errorf("%s: it ends with %v", tc.kind, err)
		}
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s: %s", tc.kind, diff)
		}
		if diff := cmp.Diff(tc.asked, *asked); diff != "" {
			t.Errorf("%s: %s", tc.kind, diff)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	for _, s := range []string{"", putA + synced, ":\n\n", "data\ndata:\n\n", "event: x\r\n\r\n", "\n\n\n", "id: 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		err := readEvents(strings.NewReader(s), func(event) error {
			n++
			return nil
		})
		if err == nil || n > strings.Count(s, "\n") {
			t.Fatal(fmt.Sprint(n, " events, ", err))
		}
	})
}
