package e2e

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to spoil a stored object

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// A weight that changes on the global is seen in the responses, in both zones, by the time that the position
// says so.
func TestRouteShiftsTraffic(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		stages := map[string]*stage{}
		for _, name := range []string{"zone-1", "zone-2"} {
			stages[name] = newStage(t, w, w.zone(t, zoneOptions{name: name, global: global}), name)
		}
		rev := put(t, global, "/meshes/default/traffic-routes/web", route(90, 10))
		for name, s := range stages {
			live(t, global, name, rev, 2*time.Second)
			got, err := s.web.shares(within(t, 10*time.Second), s.outbound, 200)
			if must(t, got, err); got["v2"] < 4 || got["v2"] > 50 {
				t.Errorf("%s: 90 to 10 gave %v", name, got)
			}
		}
		rev = put(t, global, "/meshes/default/traffic-routes/web", route(0, 1))
		for name, s := range stages {
			live(t, global, name, rev, 2*time.Second)
			s.reaches(t, time.Second, "v2")
			got, err := s.web.shares(within(t, 10*time.Second), s.outbound, 50)
			if must(t, got, err); got["v2"] != 50 {
				t.Errorf("%s: all to v2 gave %v", name, got)
			}
		}
		if _, err := global.client().Delete(t.Context(), "/meshes/default/traffic-routes/web"); err != nil {
			t.Fatal(err)
		}
		for _, s := range stages {
			s.reaches(t, 2*time.Second, "v1", "v2")
		}
	})
}

// A timeout that changes is active in Envoy within a second, and no cluster is left warming.
func TestTimeoutIsActiveWithinASecond(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		s := newStage(t, w, w.zone(t, zoneOptions{name: "zone-1", global: global}), "zone-1")
		for _, want := range []time.Duration{3 * time.Second, 7 * time.Second} {
			rev := put(t, global, "/meshes/default/timeouts/web", timeout(want.String()))
			took := until(t, time.Second, "connect timeout of "+want.String(), func(ctx context.Context) error {
				got, err := s.web.connectTimeout(ctx, "backend")
				if err == nil && got != want {
					err = fmt.Errorf("it is %s", got)
				}
				return err
			})
			t.Logf("active after %s", took.Round(time.Millisecond))
			live(t, global, "zone-1", rev, time.Second)
		}
		s.reaches(t, time.Second, "v1", "v2")
	})
}

// A killed zone is inactive within 3 s and active again within 2 s of serving; its proxies carry traffic on.
func TestZoneKilledAndBack(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		other := w.zone(t, zoneOptions{name: "zone-2", global: global})
		active(t, global, "zone-1", true, 2*time.Second)
		active(t, global, "zone-2", true, 2*time.Second)
		s := newStage(t, w, zone, "zone-1")

		zone.kill(t)
		t.Logf("inactive after %s", active(t, global, "zone-1", false, 3*time.Second).Round(time.Millisecond))
		active(t, global, "zone-2", true, time.Second)
		s.reaches(t, time.Second, "v1", "v2")
		rev := put(t, global, "/meshes/default/traffic-routes/web", route(1, 0))
		equal(t, global, other, 2*time.Second)

		zone.start(t)
		t.Logf("active after %s", active(t, global, "zone-1", true, 2*time.Second).Round(time.Millisecond))
		equal(t, global, zone, 2*time.Second)
		// Envoy backs off up to 30 s between attempts, but the first ones come quickly.
		live(t, global, "zone-1", rev, 15*time.Second)
		s.reaches(t, 15*time.Second, "v1")
	})
}

// While the global is away the proxies serve, a new one joins, one leaves; afterwards everything is told.
func TestGlobalKilledAndBack(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		s := newStage(t, w, zone, "zone-1")
		active(t, global, "zone-1", true, 2*time.Second)

		global.kill(t)
		s.reaches(t, 2*time.Second, "v1", "v2")
		v3 := w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v3"), token: s.token})
		s.reaches(t, 2*time.Second, "v1", "v2", "v3")

		global.start(t)
		t.Logf("active after %s", active(t, global, "zone-1", true, 2*time.Second).Round(time.Millisecond))
		equal(t, global, zone, 2*time.Second)
		until(t, 2*time.Second, "the new dataplane is known", func(ctx context.Context) error {
			_, _, err := global.client().Do(ctx, http.MethodGet, "/meshes/default/dataplanes/zone-1.backend-v3", nil)
			return err
		})
		live(t, global, "zone-1", put(t, global, "/meshes/default/traffic-routes/web", route(1, 1)), 2*time.Second)
		s.reaches(t, time.Second, "v1", "v2")

		v3.stop(t)
		until(t, 2*time.Second, "a proxy that said goodbye is gone", func(ctx context.Context) error {
			_, _, err := global.client().Do(ctx, http.MethodGet, "/meshes/default/dataplanes/zone-1.backend-v3", nil)
			if status(err) != http.StatusNotFound {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	})
}

// A zone control plane restarts from its own store while the global is away, and takes new proxies.
func TestZoneRestartsWithoutTheGlobal(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		s := newStage(t, w, zone, "zone-1")
		live(t, global, "zone-1", put(t, global, "/meshes/default/traffic-routes/web", route(0, 1)), 2*time.Second)

		global.kill(t)
		zone.kill(t)
		zone.start(t)
		s.reaches(t, 2*time.Second, "v2")
		outbound := freePort(t)
		web2 := w.proxy(t, zone, proxyOptions{dataplane: web(t, "web-2", outbound), token: s.token})
		until(t, 5*time.Second, "the new proxy has the route", func(ctx context.Context) error {
			got, err := web2.shares(ctx, outbound, 10)
			if err == nil && got["v2"] != 10 {
				err = fmt.Errorf("answers: %v", got)
			}
			return err
		})
		body, code := readiness(t, zone)
		if code != http.StatusOK || !strings.Contains(strings.ToLower(body), "global") {
			t.Errorf("/ready says %d %q, want 200 and why there is no session", code, body)
		}

		global.start(t)
		active(t, global, "zone-1", true, 2*time.Second)
		live(t, global, "zone-1", put(t, global, "/meshes/default/traffic-routes/web", route(1, 0)), 15*time.Second)
		s.reaches(t, 15*time.Second, "v1")
	})
}

// readiness is the body and status of /ready.
func readiness(t *testing.T, cp controlPlane) (string, int) {
	t.Helper()
	resp, err := http.Get("http://" + cp.addr("diagnostics") + "/ready")
	must(t, resp, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(must(t, raw, err)), resp.StatusCode
}

// A zone with a bad token is refused and leaves no Zone object; it serves, says why, and joins once the file
// holds a good one.
func TestZoneTokens(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		issue := func(zone string, d time.Duration) string {
			token, err := global.client().ZoneToken(within(t, 5*time.Second), zone, d)
			return must(t, token, err)
		}
		good := issue("zone-1", time.Hour)
		expired := issue("zone-1", time.Second)
		head, rest, _ := strings.Cut(good, ".")
		until(t, 3*time.Second, "the token has expired", func(context.Context) error {
			if time.Now().Before(expires(t, expired)) {
				return errors.New("not yet")
			}
			return nil
		})
		for name, token := range map[string]string{
			"wrong":   head + "." + rest[:len(rest)-4] + "AAAA",
			"expired": expired,
			"foreign": issue("zone-2", time.Hour),
			"none":    "",
		} {
			t.Run(name, func(t *testing.T) {
				file := path(t.TempDir(), "token")
				if token != "" {
					writeFile(t, file, token)
				}
				zone := w.zone(t, zoneOptions{name: "zone-1", global: global, tokenFile: file})
				until(t, 3*time.Second, "/ready says why", func(context.Context) error {
					body, code := readiness(t, zone)
					if code != http.StatusOK || !strings.Contains(body, "token") && !strings.Contains(body, "credentials") {
						return fmt.Errorf("%d %q", code, body)
					}
					return nil
				})
				zones, err := list(t.Context(), global, "/zones")
				if must(t, zones, err); len(zones) != 0 {
					t.Errorf("zones %v, want none", zones)
				}
				zone.stop(t)
			})
		}
		t.Run("joins once the token is good", func(t *testing.T) {
			file := path(t.TempDir(), "token")
			writeFile(t, file, expired)
			zone := w.zone(t, zoneOptions{name: "zone-1", global: global, tokenFile: file})
			until(t, 3*time.Second, "/ready says why", func(context.Context) error {
				if body, code := readiness(t, zone); code != http.StatusOK || !strings.Contains(body, "token") {
					return fmt.Errorf("%d %q", code, body)
				}
				return nil
			})
			writeFile(t, file, good)
			t.Logf("active after %s", active(t, global, "zone-1", true, 11*time.Second).Round(time.Millisecond))
			equal(t, global, zone, 2*time.Second)
		})
	})
}

// A proxy with a wrong token is refused with the reason, and leaves no dataplane.
func TestProxyTokens(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		good := dataplaneToken(t, zone, "backend-v1")
		head, rest, _ := strings.Cut(good, ".")
		for name, token := range map[string]string{
			"wrong":         head + "." + rest[:len(rest)-4] + "AAAA",
			"of another":    dataplaneToken(t, zone, "another"),
			"none":          "",
			"of the global": dataplaneToken(t, global, "another"),
		} {
			t.Run(name, func(t *testing.T) {
				reason := w.refused(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v1"), token: token})
				if !strings.Contains(strings.ToLower(reason), "token") {
					t.Errorf("reason %q, want one about the token", reason)
				}
			})
		}
		dataplanes, err := list(t.Context(), zone, "/dataplanes")
		if must(t, dataplanes, err); len(dataplanes) != 0 {
			t.Errorf("dataplanes %v, want none", dataplanes)
		}
		w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v1"), token: good})
		w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v2"), token: dataplaneToken(t, global, "backend-v2")})
	})
}

// rejection is an item of /rejections.
type rejection struct {
	Type, Kind, Mesh, Name, Reason, Zone string
	ResourceType, ResourceName           string
	Proxies                              []string
}

// rejected waits until a control plane lists a rejection of an object.
func rejected(t *testing.T, cp controlPlane, kind, name string, d time.Duration) rejection {
	t.Helper()
	var found rejection
	until(t, d, fmt.Sprintf("a rejection of %s %s is listed", kind, name), func(ctx context.Context) error {
		var page harness.Items[rejection]
		if err := cp.client().Get(ctx, "/rejections", &page); err != nil {
			return err
		}
		for _, r := range page.Items {
			if r.Kind == kind && r.Name == name {
				found = r
				return nil
			}
		}
		return fmt.Errorf("listed: %+v", page.Items)
	})
	return found
}

// A key that the zone can't take is rejected alone and by name; all else is applied and the position moves on.
// It is offered again when it changes.
func TestKeyThatAZoneCannotTake(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		active(t, global, "zone-1", true, 2*time.Second)
		zone.stop(t)
		put(t, global, "/meshes/default/traffic-routes/broken", route(1, 1))
		global.stop(t)
		corrupt(t, global, "TrafficRoute", "default", "broken")
		global.start(t)
		rev := put(t, global, "/meshes/default/traffic-routes/good", route(2, 1))

		zone.start(t)
		r := rejected(t, global, "TrafficRoute", "broken", 3*time.Second)
		if r.Type != "SyncRejection" || r.Zone != "zone-1" || r.Mesh != "default" || r.Reason == "" {
			t.Errorf("rejection %+v", r)
		}
		live(t, global, "zone-1", rev, 2*time.Second)
		var got map[string]any
		if err := zone.client().Get(t.Context(), "/meshes/default/traffic-routes/good", &got); err != nil {
			t.Error(err)
		}
		if err := zone.client().Get(t.Context(), "/meshes/default/traffic-routes/broken", &got); status(err) != http.StatusNotFound {
			t.Errorf("the broken route: %v, want 404", err)
		}

		live(t, global, "zone-1", put(t, global, "/meshes/default/traffic-routes/broken", route(1, 3)), 2*time.Second)
		equal(t, global, zone, 2*time.Second)
		until(t, 2*time.Second, "the rejection is gone", func(ctx context.Context) error {
			var page harness.Items[rejection]
			if err := global.client().Get(ctx, "/rejections", &page); err != nil || len(page.Items) > 0 {
				return fmt.Errorf("%+v: %w", page.Items, err)
			}
			return nil
		})
	})
}

// corrupt spoils the stored spec of an object of a control plane that is stopped.
func corrupt(t *testing.T, cp controlPlane, kind, scope, name string) {
	t.Helper()
	db, err := sql.Open("sqlite", path(cp.dir(), "global-cp.db"))
	must(t, db, err)
	defer db.Close()
	res, err := db.ExecContext(t.Context(), `UPDATE entries SET spec = x'ff' WHERE kind = ? AND scope = ? AND name = ?`, kind, scope, name)
	must(t, res, err)
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("changed %d rows: %v", n, err)
	}
}

// What Envoy refuses is visible with its text on the zone and on the global within a second, at the object
// that caused it; what it had works on, and the position tells of it without standing still.
func TestRefusalIsVisible(t *testing.T) {
	inBoth(t, func(t *testing.T, w world) {
		global := w.global(t)
		zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
		token := dataplaneToken(t, zone, "")
		for _, version := range []string{"v1", "v2"} {
			w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", version), token: token})
		}
		outbound := freePort(t)
		registered := web(t, "web", outbound)
		if _, _, err := zone.client().Do(t.Context(), http.MethodPut, "/meshes/default/dataplanes/web", asJSON(t, registered)); err != nil {
			t.Fatal(err)
		}
		s := &stage{zone: zone, outbound: outbound, web: w.proxy(t, zone, proxyOptions{name: "web", token: token})}
		s.reaches(t, 5*time.Second, "v1", "v2")

		taken, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, taken, err)
		defer taken.Close()
		port := taken.Addr().(*net.TCPAddr).Port
		s.web.refuse(fmt.Sprintf("outbound:127.0.0.1:%d", port))
		put(t, zone, "/meshes/default/dataplanes/web",
			asJSON(t, registered+fmt.Sprintf("  - {port: %d, tags: {kuma.io/service: backend}}\n", port)))
		for name, cp := range map[string]controlPlane{"zone": zone, "global": global} {
			r := rejected(t, cp, "Dataplane", "web", time.Second)
			if name == "global" && r.Zone != "zone-1" {
				t.Errorf("on the global it is zone %q", r.Zone)
			}
			if r.Type != "ProxyRejection" || !strings.Contains(r.Reason, "ddress already in use") || len(r.Proxies) != 1 {
				t.Errorf("%s: rejection %+v", name, r)
			}
			told(t, cp, map[string]string{"zone": "web", "global": "zone-1.web"}[name])
		}
		s.reaches(t, time.Second, "v1", "v2")
		rev := put(t, global, "/meshes/default/traffic-routes/web", route(0, 1))
		live(t, global, "zone-1", rev, 2*time.Second)
		s.reaches(t, time.Second, "v2")

		put(t, zone, "/meshes/default/dataplanes/web", asJSON(t, registered))
		until(t, 2*time.Second, "the rejection is gone", func(ctx context.Context) error {
			var page harness.Items[rejection]
			if err := global.client().Get(ctx, "/rejections", &page); err != nil || len(page.Items) > 0 {
				return fmt.Errorf("%+v: %w", page.Items, err)
			}
			return nil
		})
	})
}

// told waits until a control plane tells of a refusal at a dataplane and at its insight.
func told(t *testing.T, cp controlPlane, name string) {
	t.Helper()
	for path, word := range map[string]string{"dataplanes/" + name + "?status=true": "resourceName", "dataplanes+insights/" + name: "rejections"} {
		until(t, time.Second, path+" tells why", func(ctx context.Context) error {
			raw, _, err := cp.client().Do(ctx, http.MethodGet, "/meshes/default/"+path, nil)
			if err == nil && (!strings.Contains(string(raw), "ddress already in use") || !strings.Contains(string(raw), word)) {
				err = errors.New(string(raw))
			}
			return err
		})
	}
}

// expires is when a token expires.
func expires(t *testing.T, token string) time.Time {
	t.Helper()
	var claims struct {
		Exp int64 `json:"exp"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	must(t, raw, err)
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.Exp, 0)
}
