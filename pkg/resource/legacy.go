package resource

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A converter reads the shape that one kind had in an older era into the present one, before the body is
// matched with its message. What it does not know it leaves in place, where the decoder names it; of what it
// takes apart it names the unknown parts itself. It changes copies: values of YAML aliases are shared.
type converter func(c *conversion, spec value) value

// converters lists those of a kind, in the order in which they are applied.
func converters(k Kind) []converter {
	switch k {
	case KindDataplane:
		return []converter{interfacesToPorts, redirectPortToTwo, proxyMetricsTags}
	case KindMesh:
		return []converter{caToBackend, prometheusToBackend, meshMetricsTags, logsToTyped, zipkinToTyped}
	case KindTrafficRoute:
		return []converter{routesToSplit}
	case KindHealthCheck:
		return []converter{activeChecksToFlat}
	}
	return nil
}

type conversion struct {
	decoder *decoder
	// name of the object; empty where the body does not give it.
	name string
}

func (c *conversion) fail(path, message string) { c.decoder.violations.Add(path, message) }

// maxWarnings bounds what is said of one body: it travels in a header.
const maxWarnings = 16

// warn notes, once, what was converted. Texts are of this package only, never of a body.
func (d *decoder) warn(message string) {
	switch {
	case slices.Contains(d.warnings, message):
	case len(d.warnings) < maxWarnings:
		d.warnings = append(d.warnings, message)
	case len(d.warnings) == maxWarnings:
		d.warnings = append(d.warnings, "more was converted than is listed")
	}
}

func (c *conversion) warn(path, as string) { c.decoder.warn(path + " is read as " + as) }

// named says whether a body's key is the field of this JSON name: fields go by their name in the schema, too.
func named(key, name string) bool {
	if len(key) <= len(name) {
		return key == name
	}
	i := 0
	for _, part := range strings.SplitAfter(key, "_") {
		part = strings.TrimSuffix(part, "_")
		if part == "" {
			return false
		}
		if i > 0 {
			part = strings.ToUpper(part[:1]) + part[1:]
		}
		if !strings.HasPrefix(name[i:], part) {
			return false
		}
		i += len(part)
	}
	return i == len(name)
}

// get returns an object's member; null is none.
func get(v value, name string) (value, bool) {
	for _, m := range v.members {
		if named(m.name, name) && m.value.shape != shapeNull {
			return m.value, true
		}
	}
	return value{}, false
}

// edit applies f to every member of that name.
func edit(v value, name string, f func(value) value) value {
	v.members = slices.Clone(v.members)
	for i, m := range v.members {
		if named(m.name, name) {
			v.members[i].value = f(m.value)
		}
	}
	return v
}

// editItems applies f to every object of a list.
func editItems(v value, f func(i int, item value) value) value {
	v.items = slices.Clone(v.items)
	for i, item := range v.items {
		if item.shape == shapeObject {
			v.items[i] = f(i, item)
		}
	}
	return v
}

// set adds a member, in the place of nulls and empty strings of its name. Any other of its name stays, for the
// decoder to refuse.
func set(v value, name string, x value) value {
	v.members = slices.DeleteFunc(slices.Clone(v.members), func(m member) bool {
		return named(m.name, name) && (m.value.shape == shapeNull || m.value.shape == shapeString && m.value.text == "")
	})
	v.members = append(v.members, member{name, x})
	return v
}

// take removes a member of an older era from an object. It is false where there is none, or null.
func (c *conversion) take(path string, v *value, name string) (value, bool) {
	var taken value
	n := 0
	rest := make([]member, 0, len(v.members))
	for _, m := range v.members {
		if !named(m.name, name) {
			rest = append(rest, m)
			continue
		}
		if n++; n > 1 {
			c.fail(fieldPath(path, name), givenTwice)
			continue
		}
		taken = m.value
	}
	if n > 0 {
		v.members = rest
	}
	return taken, taken.shape != shapeNull
}

// alone makes sure that what an older field is converted to is not given as well.
func (c *conversion) alone(path, name string, v value, others ...string) bool {
	for _, other := range others {
		if _, given := get(v, other); given {
			c.fail(fieldPath(path, name), fmt.Sprintf("cannot be given together with %q", other))
			return false
		}
	}
	return true
}

// known returns an object of the given members, by their JSON names, and names all others.
func (c *conversion) known(path string, v value, names ...string) value {
	if v.shape != shapeObject {
		c.decoder.mistyped(path, shapeObject.String(), v)
		return objectOf()
	}
	out := objectOf()
	for _, name := range names {
		if x, ok := c.take(path, &v, name); ok {
			out.members = append(out.members, member{name, x})
		}
	}
	for _, m := range v.members {
		c.fail(fieldPath(path, m.name), unknownField)
	}
	return out
}

func objectOf(members ...member) value { return value{shape: shapeObject, members: members} }

func listOf(items ...value) value { return value{shape: shapeList, items: items} }

func stringOf(s string) value { return value{shape: shapeString, text: s} }

func portOf(n uint16) value { return value{shape: shapeNumber, text: strconv.Itoa(int(n))} }

// interfacesToPorts reads the inbound "IP:PORT:SERVICEPORT" and the outbound "[IP]:PORT" of 0.3 and 0.4. The
// first inbound's IP becomes the proxy's address, for which those documents have no field.
func interfacesToPorts(c *conversion, spec value) value {
	return edit(spec, "networking", func(n value) value {
		address, addressed := get(n, "address")
		addressed = addressed && (address.shape != shapeString || address.text != "")
		legacy, first := false, ""
		n = edit(n, "inbound", func(list value) value {
			return editItems(list, func(i int, in value) value {
				path := indexPath("networking.inbound", i)
				text, ok := c.take(path, &in, "interface")
				if !ok {
					return in
				}
				legacy = true
				at := path + ".interface"
				host, ports := c.hostAndPorts(at, text, 2)
				switch {
				case ports == nil || !c.alone(path, "interface", in, "port", "servicePort", "serviceAddress", "address"):
					return in
				case addressed:
					c.fail(at, `cannot be given together with "networking.address"`)
					return in
				case first == "":
					first = host
				case host != first:
					in = set(in, "address", stringOf(host))
				}
				c.warn(at, "address, port and servicePort")
				return set(set(in, "port", portOf(ports[0])), "servicePort", portOf(ports[1]))
			})
		})
		n = edit(n, "outbound", func(list value) value {
			return editItems(list, func(i int, out value) value {
				path := indexPath("networking.outbound", i)
				text, ok := c.take(path, &out, "interface")
				if !ok {
					return out
				}
				legacy = true
				at := path + ".interface"
				host, ports := c.hostAndPorts(at, text, 1)
				if ports == nil || !c.alone(path, "interface", out, "port", "address") {
					return out
				}
				if host != "" {
					out = set(out, "address", stringOf(host))
				}
				c.warn(at, "address and port")
				return set(out, "port", portOf(ports[0]))
			})
		})
		gateway, isGateway := get(n, "gateway")
		tags, _ := get(gateway, "tags")
		_, legacyTag := get(tags, "service")
		switch {
		case addressed:
		case first != "":
			n = set(n, "address", stringOf(first))
		case isGateway && (legacy || legacyTag):
			n = set(n, "address", stringOf("127.0.0.1"))
			c.decoder.warn("networking.address is missing: the gateway gets 127.0.0.1")
		}
		return n
	})
}

// hostAndPorts reads an IP, in brackets if it is one of version 6, and as many ports as asked for. Where one
// port is, the IP may be missing. It returns no ports where the text is something else.
func (c *conversion) hostAndPorts(path string, v value, n int) (string, []uint16) {
	if v.shape != shapeString {
		c.decoder.mistyped(path, shapeString.String(), v)
		return "", nil
	}
	host, rest := v.text, ""
	ports := make([]uint16, n)
	good := true
	for i := n - 1; i >= 0; i-- {
		at := strings.LastIndexByte(host, ':')
		if at < 0 {
			good = false
			break
		}
		host, rest = host[:at], host[at+1:]
		port, err := strconv.ParseUint(rest, 10, 16)
		good = good && err == nil && port > 0
		ports[i] = uint16(port)
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		host, bracketed = strings.CutSuffix(inner, "]")
		good = good && bracketed && strings.Contains(host, ":")
	} else {
		good = good && !strings.Contains(host, ":")
	}
	if !good || !isIP(host) && (host != "" || bracketed || n > 1) {
		if n > 1 {
			c.fail(path, "has to be IP:DATAPLANE_PORT:SERVICE_PORT")
		} else {
			c.fail(path, "has to be [IP]:PORT")
		}
		return "", nil
	}
	return host, ports
}

// redirectPortToTwo: one port took the traffic of both directions.
func redirectPortToTwo(c *conversion, spec value) value {
	return edit(spec, "networking", func(n value) value {
		return edit(n, "transparentProxying", func(t value) value {
			const path, name = "networking.transparentProxying", "redirectPort"
			port, ok := c.take(path, &t, name)
			if !ok || !c.alone(path, name, t, "redirectPortInbound", "redirectPortOutbound") {
				return t
			}
			c.warn(path+"."+name, "redirectPortInbound and redirectPortOutbound")
			return set(set(t, "redirectPortInbound", port), "redirectPortOutbound", port)
		})
	})
}

// Secrets of the provided CA of 0.3 and 0.4 are named after their mesh and its only backend.
const (
	legacyCACert = providedCert + backendProvided
	legacyCAKey  = providedKey + backendProvided
)

// caToBackend reads the one CA that a mesh had in 0.3 and 0.4. Where it was off and not chosen, nothing stays.
func caToBackend(c *conversion, spec value) value {
	return edit(spec, "mtls", func(mtls value) value {
		enabled, hasEnabled := c.take("mtls", &mtls, "enabled")
		ca, hasCA := c.take("mtls", &mtls, "ca")
		if !hasEnabled && !hasCA {
			return mtls
		}
		alone := true
		if hasEnabled {
			if enabled.shape != shapeBool {
				c.decoder.mistyped("mtls.enabled", shapeBool.String(), enabled)
			}
			alone = c.alone("mtls", "enabled", mtls, "enabledBackend", "backends")
		}
		chosen := objectOf()
		if hasCA {
			chosen = c.known("mtls.ca", ca, backendBuiltin, backendProvided)
			alone = c.alone("mtls", "ca", mtls, "enabledBackend", "backends") && alone
		}
		kind := backendBuiltin
		for i, m := range chosen.members {
			kind = m.name
			c.known("mtls.ca."+kind, m.value)
			if i > 0 {
				c.fail("mtls.ca."+kind, fmt.Sprintf("cannot be given together with %q", chosen.members[0].name))
			}
		}
		switch {
		case !alone:
			return mtls
		case len(chosen.members) == 0 && !enabled.truth:
			c.warn("mtls", "mutual TLS that is off")
			if len(mtls.members) == 0 {
				return value{}
			}
			return mtls
		}
		backend := objectOf(member{"name", stringOf(kind)}, member{"type", stringOf(kind)})
		if kind == backendProvided {
			secret := func(name string) value { return objectOf(member{"secret", stringOf(c.name + name)}) }
			backend = set(backend, "conf", objectOf(member{"cert", secret(legacyCACert)}, member{"key", secret(legacyCAKey)}))
		}
		if enabled.truth {
			mtls = set(mtls, "enabledBackend", stringOf(kind))
		}
		c.warn("mtls.enabled and mtls.ca", "enabledBackend and backends")
		return set(mtls, "backends", listOf(backend))
	})
}

// prometheusToBackend reads the only way to expose metrics that 0.3 and 0.4 had.
func prometheusToBackend(c *conversion, spec value) value {
	return edit(spec, "metrics", func(m value) value {
		p, ok := c.take("metrics", &m, backendPrometheus)
		if !ok || !c.alone("metrics", backendPrometheus, m, "enabledBackend", "backends") {
			return m
		}
		conf := c.known("metrics."+backendPrometheus, p, "port", "path")
		c.warn("metrics."+backendPrometheus, "enabledBackend and backends")
		return set(set(m, "enabledBackend", stringOf(backendPrometheus)), "backends", listOf(objectOf(
			member{"name", stringOf(backendPrometheus)}, member{"type", stringOf(backendPrometheus)}, member{"conf", conf},
		)))
	})
}

// meshMetricsTags reads the well-known tags in the free objects of backends; those of the schema the decoder reads.
func meshMetricsTags(c *conversion, spec value) value {
	return edit(spec, "metrics", func(m value) value {
		return edit(m, "backends", func(list value) value {
			return editItems(list, func(i int, b value) value {
				return c.metricsTags(indexPath("metrics.backends", i)+".conf", b)
			})
		})
	})
}

// proxyMetricsTags is meshMetricsTags for a proxy's own backend.
func proxyMetricsTags(c *conversion, spec value) value {
	return edit(spec, "metrics", func(m value) value { return c.metricsTags("metrics.conf", m) })
}

func (c *conversion) metricsTags(path string, backend value) value {
	return edit(backend, "conf", func(conf value) value {
		return edit(conf, "tags", func(tags value) value {
			tags.members = slices.Clone(tags.members)
			for i, m := range tags.members {
				known := WellKnownTag(m.name)
				if known == m.name {
					continue
				}
				if slices.ContainsFunc(tags.members, func(o member) bool { return o.name == known }) {
					c.fail(keyPath(path+".tags", m.name), fmt.Sprintf("is read as %q, which is given too", known))
					continue
				}
				tags.members[i].name = known
				c.decoder.warn(readTag(m.name, known))
			}
			return tags
		})
	})
}

func readTag(name, as string) string { return fmt.Sprintf("the tag %q is read as %q", name, as) }

// logsToTyped reads backends whose configuration stood under the name of their type, as in 0.3 and 0.4.
func logsToTyped(c *conversion, spec value) value {
	return c.typed(spec, "logging", map[string][]string{backendFile: {"path"}, backendTCP: {"address"}})
}

// zipkinToTyped is logsToTyped for traces.
func zipkinToTyped(c *conversion, spec value) value {
	return c.typed(spec, "tracing", map[string][]string{backendZipkin: {"url", "traceId128bit", "apiVersion"}})
}

func (c *conversion) typed(spec value, section string, types map[string][]string) value {
	return edit(spec, section, func(s value) value {
		return edit(s, "backends", func(list value) value {
			return editItems(list, func(i int, b value) value {
				path := indexPath(section+".backends", i)
				kinds := slices.Sorted(maps.Keys(types))
				for _, kind := range kinds {
					x, ok := c.take(path, &b, kind)
					if !ok || !c.alone(path, kind, b, append(kinds, "type", "conf")...) {
						continue
					}
					conf := c.known(path+"."+kind, x, types[kind]...)
					c.warn(path+"."+kind, "type and conf")
					b = set(set(b, "type", stringOf(kind)), "conf", conf)
					if name, given := get(b, "name"); !given || name.shape == shapeString && name.text == "" {
						b = set(b, "name", stringOf(kind))
					}
				}
				return b
			})
		})
	})
}

// routesToSplit reads the list that was a route's whole configuration before 1.0.
func routesToSplit(c *conversion, spec value) value {
	return edit(spec, "conf", func(conf value) value {
		if conf.shape != shapeList {
			return conf
		}
		c.warn("conf", "conf.split")
		return objectOf(member{"split", conf})
	})
}

// activeChecksToFlat reads the checks of 0.3 to 0.5. Passive ones belong to circuit breakers now: they are
// refused rather than lost.
func activeChecksToFlat(c *conversion, spec value) value {
	return edit(spec, "conf", func(conf value) value {
		if conf.shape != shapeObject {
			return conf
		}
		if passive, ok := c.take("conf", &conf, "passiveChecks"); ok {
			if given := c.known("conf.passiveChecks", passive, "unhealthyThreshold", "penaltyInterval"); len(given.members) > 0 {
				c.fail("conf.passiveChecks", "are circuit breakers now: use conf.detectors.totalErrors and conf.baseEjectionTime of a CircuitBreaker")
			}
		}
		active, ok := c.take("conf", &conf, "activeChecks")
		fields := []string{"interval", "timeout", "unhealthyThreshold", "healthyThreshold"}
		if !ok || !c.alone("conf", "activeChecks", conf, fields...) {
			return conf
		}
		for _, m := range c.known("conf.activeChecks", active, fields...).members {
			conf = set(conf, m.name, m.value)
		}
		c.warn("conf.activeChecks", "conf")
		return conf
	})
}
