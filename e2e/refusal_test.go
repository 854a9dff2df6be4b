package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A listener that Envoy refuses among a hundred that come with the same write delays the others by less than a
// second, and is told at the dataplane, at its insight, and nowhere else, until it is mended.
func TestOneBadAmongAHundred(t *testing.T) {
	envoy(t)
	zone := processes{}.zone(t, zoneOptions{})
	token := dataplaneToken(t, zone, "")
	registered := web(t, "web", freePort(t))
	const path = "/meshes/default/dataplanes/web"
	put(t, zone, path, asJSON(t, registered))
	processes{}.proxy(t, zone, proxyOptions{name: "web", token: token})

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, taken, err)
	defer taken.Close()
	bad := taken.Addr().(*net.TCPAddr).Port
	// write gives the dataplane these outbounds, and says when all but the bad one listen.
	write := func(ports []int) time.Duration {
		t.Helper()
		text := registered
		for _, port := range ports {
			text += fmt.Sprintf("  - {port: %d, tags: {kuma.io/service: backend}}\n", port)
		}
		body := asJSON(t, text)
		began := time.Now()
		put(t, zone, path, body)
		until(t, 10*time.Second, "the others listen", func(ctx context.Context) error {
			for _, port := range ports {
				if port == bad {
					continue
				}
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", local(port))
				if err != nil {
					return err
				}
				_ = c.Close()
			}
			return nil
		})
		return time.Since(began)
	}
	hundred := func() []int {
		ports := make([]int, 100)
		for i := range ports {
			ports[i] = freePort(t)
		}
		return ports
	}
	without := write(hundred())
	ports := hundred()
	ports[37] = bad
	with := write(ports)
	t.Logf("100 listeners take %v, with a bad one among them %v", without.Round(time.Millisecond), with.Round(time.Millisecond))
	if with-without >= time.Second {
		t.Errorf("the bad one delays the others by %v", with-without)
	}

	listener := fmt.Sprintf("outbound:127.0.0.1:%d", bad)
	var source struct {
		Status struct{ Rejections []rejection }
	}
	var overview struct {
		DataplaneInsight struct {
			Rejected   int
			Rejections []struct{ ResourceName, Reason string }
		}
	}
	until(t, time.Second, "it is told", func(ctx context.Context) error {
		if err := errors.Join(zone.client().Get(ctx, path+"?status=true", &source),
			zone.client().Get(ctx, "/meshes/default/dataplanes+insights/web", &overview)); err != nil {
			return err
		}
		at := overview.DataplaneInsight
		if len(source.Status.Rejections) != 1 || at.Rejected != 1 || len(at.Rejections) != 1 {
			return fmt.Errorf("%+v, %+v", source, overview)
		}
		for _, reason := range []string{source.Status.Rejections[0].Reason, at.Rejections[0].Reason} {
			if !strings.Contains(reason, "ddress already in use") {
				return fmt.Errorf("the reason is %q", reason)
			}
		}
		if source.Status.Rejections[0].ResourceName != listener || at.Rejections[0].ResourceName != listener {
			return fmt.Errorf("%s is meant: %+v, %+v", listener, source, at)
		}
		return nil
	})

	ports[37] = freePort(t)
	write(ports)
	until(t, time.Second, "it is mended", func(ctx context.Context) error {
		raw, _, err := zone.client().Do(ctx, http.MethodGet, path+"?status=true", nil)
		if err == nil && strings.Contains(string(raw), "already in use") {
			err = errors.New(string(raw))
		}
		return err
	})
}
