package main

import "fmt"

// suggestion is one thing to try; its command works as it stands.
type suggestion struct{ what, command string }

func suggestions(m *mesh, control string) []suggestion {
	global := "http://" + m.global.cp.Addr("http")
	web := fmt.Sprintf("http://127.0.0.1:%d/", m.zones[0].entry)
	put := func(path, body string) string {
		return fmt.Sprintf("curl -fsSi -X PUT -H 'content-type: application/json' %s%s -d '%s'", global, path, body)
	}
	// Proxies switch one after another, so a call in between may fail.
	retry := "curl -fsS --retry 20 --retry-all-errors --retry-delay 1 "
	get := func(path string) string { return "curl -fsS " + global + path }
	do := func(name, verb string) string {
		return fmt.Sprintf("curl -fsS -X POST http://%s/%s/%s", control, name, verb)
	}
	const from = `"sources":[{"match":{"kuma.io/service":"web"}}],"destinations":[{"match":{"kuma.io/service":"backend"}}]`
	return []suggestion{
		{"the zones", get("/status/zones")},
		{"a request: curl -> web -> Envoy -> Envoy -> backend v1 or v2", "curl -fsS " + web},
		{"nine of ten requests to v1, in both zones at once", put("/meshes/default/traffic-routes/web",
			`{`+from+`,"conf":{"split":[{"weight":90,"destination":{"kuma.io/service":"backend","version":"v1"}},{"weight":10,"destination":{"kuma.io/service":"backend","version":"v2"}}]}}`)},
		{"is it live? compare position.live with the Meridian-Revision that the PUT answered with", get("/zones+insights/zone-1")},
		{"the same for each proxy", get("/meshes/default/dataplanes+insights")},
		{"another connect timeout", put("/meshes/default/timeouts/web", `{`+from+`,"conf":{"connectTimeout":"3s"}}`)},
		{"the proxies prove to one another who they are: mTLS", put("/meshes/default", `{"mtls":{"enabledBackend":"ca","backends":[{"name":"ca","type":"builtin"}]}}`)},
		{"the same request", retry + web},
		{"and one from zone-1 to a service that only zone-2 has, through that zone's ingress", retry + fmt.Sprintf("http://127.0.0.1:%d/", m.zones[0].reports)},
		{"nobody may call the backend but the reports: 503", put("/meshes/default/traffic-permissions/backend",
			`{"sources":[{"match":{"kuma.io/service":"reports"}}],"destinations":[{"match":{"kuma.io/service":"backend"}}]}`)},
		{"a request now", "curl -sS -w '%{http_code}\\n' " + web},
		{"take that back", fmt.Sprintf("curl -fsSi -X DELETE %s/meshes/default/traffic-permissions/backend", global)},
		{"stop a zone's control plane: inactive within 3 s, its traffic goes on", do("zone-1", "stop")},
		{"a request in that zone", retry + web},
		{"start it: it catches up", do("zone-1", "start")},
		{"stop the global: both zones go on", do("global", "stop")},
		{"a request without the global", "curl -fsS " + web},
		{"start it", do("global", "start")},
		{"back to equal shares", fmt.Sprintf("curl -fsSi -X DELETE %s/meshes/default/traffic-routes/web", global)},
		{"what was refused, by a zone or by an Envoy", get("/rejections")},
	}
}
