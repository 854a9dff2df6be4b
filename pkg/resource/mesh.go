package resource

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Types of a mesh's backends.
const (
	backendBuiltin    = "builtin"
	backendProvided   = "provided"
	backendZipkin     = "zipkin"
	backendFile       = "file"
	backendTCP        = "tcp"
	backendPrometheus = "prometheus"
)

const (
	minRSABits = 2048
	maxRSABits = 8192
	// maxBuiltin bounds the keys that one write makes; a long one takes seconds.
	maxBuiltin = 32
	// minDPCert keeps proxies from doing nothing but taking new certificates.
	minDPCert = time.Second
)

// ValidateMeshChange says what is wrong with replacing one mesh by another, each valid in itself: a change
// from one CA to another would cut the traffic, so mutual TLS must be disabled in between.
func ValidateMeshChange(before, after *meshv1.Mesh) Violations {
	var v Violations
	was, is := before.GetMtls().GetEnabledBackend(), after.GetMtls().GetEnabledBackend()
	if was != "" && is != "" && was != is {
		v.Add("mtls.enabledBackend", "cannot be changed from one backend to another: disable mutual TLS first")
	}
	return v
}

func validateMesh(k Key, m proto.Message) Violations {
	mesh, ok := m.(*meshv1.Mesh)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkMtls(&v, k.Name, mesh.GetMtls())
	checkTracing(&v, mesh.GetTracing())
	checkLogging(&v, mesh.GetLogging())
	checkMetrics(&v, mesh.GetMetrics())
	return v
}

// backendNames checks the names in a list of backends, and that of the one in force or taken by default.
type backendNames struct {
	seen    map[string]bool
	mayBare bool
}

func (n *backendNames) add(v *Violations, path, name string) {
	switch {
	case name == "" && !n.mayBare:
		v.Add(path+".name", cannotBeEmpty)
	case n.seen[name]:
		v.Add(path+".name", fmt.Sprintf("%q is already the name of another backend", clip(name)))
	}
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	n.seen[name] = true
}

func (n *backendNames) chosen(v *Violations, path, name string) {
	if name != "" && !n.seen[name] {
		v.Add(path, "has to be set to one of the backends in the mesh")
	}
}

func checkMtls(v *Violations, mesh string, m *meshv1.Mesh_Mtls) {
	names := backendNames{mayBare: true}
	builtin := 0
	for i, b := range m.GetBackends() {
		path := indexPath("mtls.backends", i)
		names.add(v, path, b.GetName())
		if !canNameSecrets(mesh, b) {
			v.Add(path+".name", fmt.Sprintf(`its CA lies in secrets named after it: valid are digits, lower-case letters, "-", "_" and ".", for a name of at most %d characters`, maxStoredName-len(mesh)-len(providedCert)))
		}
		conf := confOf(v, path+".config", b.GetConf())
		switch b.GetType() {
		case backendBuiltin:
			builtin++
			checkBuiltin(conf.object("caCert"))
		case backendProvided:
			checkProvided(conf)
		default:
			v.Add(path+".type", "has to be one of builtin, provided")
		}
		if b.GetDpCert() != nil {
			d, err := ParseExpiration(b.GetDpCert().GetRotation().GetExpiration())
			switch {
			case err != nil:
				v.Add("mtls.dpcert.rotation.expiration", err.Error())
			case d != 0 && d < minDPCert:
				v.Add("mtls.dpcert.rotation.expiration", "has to be at least "+minDPCert.String())
			}
		}
	}
	if builtin > maxBuiltin {
		v.Add("mtls.backends", fmt.Sprintf("must not have more than %d of type %s", maxBuiltin, backendBuiltin))
	}
	names.chosen(v, "mtls.enabledBackend", m.GetEnabledBackend())
}

// canNameSecrets says whether the secrets that the control plane makes for a backend can have names.
func canNameSecrets(mesh string, b *meshv1.CertificateAuthorityBackend) bool {
	cert, key := CASources(mesh, b)
	for _, s := range []CASource{cert, key} {
		if (IsBuiltinCA(b) || s.File != "") && storedName(s.Secret.Name, maxStoredName, false) != "" {
			return false
		}
	}
	return true
}

func checkBuiltin(ca conf) {
	bits, name := ca.number("RSAbits"), "RSAbits"
	if also := ca.number("rsaBits"); also != nil {
		if bits != nil {
			ca.fail("rsaBits", "cannot be given together with RSAbits")
		}
		bits, name = also, "rsaBits"
	}
	if bits != nil && (*bits < minRSABits || *bits > maxRSABits || *bits != math.Trunc(*bits)) {
		ca.fail(name, fmt.Sprintf("has to be a whole number from %d to %d", minRSABits, maxRSABits))
	}
	if s := ca.string("expiration"); s != nil {
		if _, err := ParseExpiration(*s); err != nil {
			ca.fail("expiration", err.Error())
		}
	}
}

// checkProvided asks for a certificate and a key. What stands in the mesh itself is looked into; secrets and
// files are where they can be read.
func checkProvided(c conf) {
	inline := map[string][]byte{}
	for _, name := range []string{"cert", "key"} {
		source := c.object(name)
		if !c.has(name) {
			c.fail(name, mustBeDefined)
			continue
		}
		var given []string
		for _, kind := range []string{"secret", "file", "inline", "inlineString"} {
			s := source.string(kind)
			if !source.has(kind) {
				continue
			}
			given = append(given, kind)
			switch {
			case s == nil:
			case *s == "":
				source.fail(kind, cannotBeEmpty)
			case kind == "inline":
				b, err := base64.StdEncoding.DecodeString(*s)
				if err != nil {
					source.fail(kind, notBase64)
					continue
				}
				inline[name] = b
			case kind == "inlineString":
				inline[name] = []byte(*s)
			}
		}
		switch {
		case len(given) > 1:
			c.fail(name, "must have only one of "+strings.Join(given, ", "))
		case len(given) == 0 && source.valid:
			source.fail("secret", cannotBeEmpty)
		}
		if len(given) != 1 {
			delete(inline, name)
		}
	}
	if len(inline) == 2 {
		for _, x := range ValidateProvidedCA(c.path, inline["cert"], inline["key"]) {
			c.v.Add(x.Field, x.Message)
		}
	}
}

func checkTracing(v *Violations, t *meshv1.Mesh_Tracing) {
	var names backendNames
	for i, b := range t.GetBackends() {
		path := indexPath("tracing.backends", i)
		names.add(v, path, b.GetName())
		if s := b.GetSampling(); s != nil && !(s.GetValue() >= 0 && s.GetValue() <= 100) {
			v.Add(path+".sampling", "has to be in the range [0, 100]")
		}
		if b.GetType() != backendZipkin {
			v.Add(path+".type", "has to be zipkin")
			continue
		}
		c := confOf(v, path+".config", b.GetConf())
		if s := c.string("url"); s != nil && *s != "" {
			u, err := url.ParseRequestURI(*s)
			switch {
			case err != nil || u.Host == "":
				c.fail("url", "has to be a valid URL")
			case u.Port() == "":
				c.fail("url", "port has to be explicitly specified")
			}
		} else if s != nil || !c.has("url") {
			c.fail("url", cannotBeEmpty)
		}
		if s := c.string("apiVersion"); s != nil {
			switch *s {
			case "", "httpJson", "httpJsonV1", "httpProto":
			default:
				c.fail("apiVersion", "has to be one of httpJson, httpJsonV1, httpProto")
			}
		}
		c.bool("traceId128bit")
		c.bool("sharedSpanContext")
	}
	names.chosen(v, "tracing.defaultBackend", t.GetDefaultBackend())
}

func checkLogging(v *Violations, l *meshv1.Mesh_Logging) {
	var names backendNames
	for i, b := range l.GetBackends() {
		path := indexPath("logging.backends", i)
		names.add(v, path, b.GetName())
		if message := accessLogFormat(b.GetFormat()); message != "" {
			v.Add(path+".format", message)
		}
		c := confOf(v, path+".config", b.GetConf())
		switch b.GetType() {
		case backendFile:
			if s := c.string("path"); s != nil && *s == "" || !c.has("path") {
				c.fail("path", cannotBeEmpty)
			}
		case backendTCP:
			if s := c.string("address"); s != nil {
				checkHostPort(v, fieldPath(c.path, "address"), *s)
			} else if !c.has("address") {
				c.fail("address", cannotBeEmpty)
			}
		default:
			v.Add(path+".type", "has to be one of file, tcp")
		}
	}
	names.chosen(v, "logging.defaultBackend", l.GetDefaultBackend())
}

func checkMetrics(v *Violations, m *meshv1.Mesh_Metrics) {
	names := backendNames{mayBare: true}
	for i, b := range m.GetBackends() {
		path := indexPath("metrics.backends", i)
		names.add(v, path, b.GetName())
		if b.GetType() != backendPrometheus {
			v.Add(path+".type", "has to be prometheus")
			continue
		}
		checkPrometheus(confOf(v, path+".conf", b.GetConf()))
	}
	names.chosen(v, "metrics.enabledBackend", m.GetEnabledBackend())
}

// checkDataplaneMetrics looks at a proxy's own settings. Another type than prometheus is without effect, as
// in the published release.
func checkDataplaneMetrics(v *Violations, b *meshv1.MetricsBackend) {
	if b.GetType() == backendPrometheus {
		checkPrometheus(confOf(v, "metrics.conf", b.GetConf()))
	}
}

func checkPrometheus(c conf) {
	if n := c.number("port"); n != nil && (*n < 1 || *n > maxPort || *n != math.Trunc(*n)) {
		c.fail("port", mustBePort)
	}
	if s := c.string("path"); s != nil && !isRequestPath(*s) {
		c.fail("path", "has to be a valid URL path")
	}
	c.bool("skipMTLS")
	tags := c.object("tags")
	set := make(map[string]string, len(tags.fields))
	for k := range tags.fields {
		if s := tags.string(k); s != nil {
			set[k] = *s
		}
	}
	tagRules{}.check(c.v, tags.path, set)
}

// conf reads the free object of a backend, and notes what has the wrong type.
type conf struct {
	v      *Violations
	path   string
	fields map[string]*structpb.Value
	// valid is false where there is no object to read.
	valid bool
}

func confOf(v *Violations, path string, s *structpb.Struct) conf {
	return conf{v: v, path: path, fields: s.GetFields(), valid: true}
}

func (c conf) fail(name, message string) { c.v.Add(fieldPath(c.path, name), message) }

// has says whether a field is given, whatever its type; null is not.
func (c conf) has(name string) bool {
	switch c.fields[name].GetKind().(type) {
	case nil, *structpb.Value_NullValue:
		return false
	}
	return true
}

func (c conf) string(name string) *string {
	if x, ok := c.fields[name].GetKind().(*structpb.Value_StringValue); ok {
		return &x.StringValue
	}
	c.mistyped(name, shapeString)
	return nil
}

// number reads a number, or a string that holds one.
func (c conf) number(name string) *float64 {
	switch x := c.fields[name].GetKind().(type) {
	case *structpb.Value_NumberValue:
		return &x.NumberValue
	case *structpb.Value_StringValue:
		if f, err := strconv.ParseFloat(x.StringValue, 64); err == nil {
			return &f
		}
	}
	c.mistyped(name, shapeNumber)
	return nil
}

func (c conf) bool(name string) {
	if _, ok := c.fields[name].GetKind().(*structpb.Value_BoolValue); !ok {
		c.mistyped(name, shapeBool)
	}
}

func (c conf) object(name string) conf {
	inner := conf{v: c.v, path: fieldPath(c.path, name)}
	if x, ok := c.fields[name].GetKind().(*structpb.Value_StructValue); ok {
		inner.fields, inner.valid = x.StructValue.GetFields(), true
		return inner
	}
	c.mistyped(name, shapeObject)
	return inner
}

func (c conf) mistyped(name string, want shape) {
	if c.has(name) {
		c.fail(name, "must be "+want.String())
	}
}

// confShape names the keys of a free object that mean something; nil allows any.
type confShape map[string]confShape

// checkConfs refuses keys of backends' free objects that nothing reads. It is asked of what a user writes
// only: a peer of a newer version may know more keys.
func checkConfs(v *Violations, m proto.Message) {
	prometheus := confShape{"port": nil, "path": nil, "tags": nil, "skipMTLS": nil}
	switch m := m.(type) {
	case *meshv1.Dataplane:
		if b := m.GetMetrics(); b.GetType() == backendPrometheus {
			prometheus.check(v, "metrics.conf", b.GetConf())
		}
	case *meshv1.Mesh:
		source := confShape{"secret": nil, "file": nil, "inline": nil, "inlineString": nil}
		for i, b := range m.GetMtls().GetBackends() {
			path := indexPath("mtls.backends", i) + ".config"
			switch b.GetType() {
			case backendBuiltin:
				confShape{"caCert": {"RSAbits": nil, "rsaBits": nil, "expiration": nil}}.check(v, path, b.GetConf())
			case backendProvided:
				confShape{"cert": source, "key": source}.check(v, path, b.GetConf())
			}
		}
		for i, b := range m.GetTracing().GetBackends() {
			if b.GetType() == backendZipkin {
				confShape{"url": nil, "traceId128bit": nil, "apiVersion": nil, "sharedSpanContext": nil}.
					check(v, indexPath("tracing.backends", i)+".config", b.GetConf())
			}
		}
		for i, b := range m.GetLogging().GetBackends() {
			path := indexPath("logging.backends", i) + ".config"
			switch b.GetType() {
			case backendFile:
				confShape{"path": nil}.check(v, path, b.GetConf())
			case backendTCP:
				confShape{"address": nil}.check(v, path, b.GetConf())
			}
		}
		for i, b := range m.GetMetrics().GetBackends() {
			if b.GetType() == backendPrometheus {
				prometheus.check(v, indexPath("metrics.backends", i)+".conf", b.GetConf())
			}
		}
	}
}

func (s confShape) check(v *Violations, path string, given *structpb.Struct) {
	for _, k := range slices.Sorted(maps.Keys(given.GetFields())) {
		inner, known := s[k]
		if !known {
			v.Add(fieldPath(path, k), unknownField)
			continue
		}
		if inner != nil {
			inner.check(v, fieldPath(path, k), given.GetFields()[k].GetStructValue())
		}
	}
}

// ParseExpiration reads a lifetime as meshes give it: digits and one of y (365 days), w, d, h, m, s, ms; or 0.
func ParseExpiration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	wrong := fmt.Errorf("has to be a number and one of y, w, d, h, m, s, ms, such as 24h")
	digits := strings.TrimRight(s, "ywdhms")
	const day = 24 * time.Hour
	unit, ok := map[string]time.Duration{
		"y": 365 * day, "w": 7 * day, "d": day, "h": time.Hour, "m": time.Minute, "s": time.Second, "ms": time.Millisecond,
	}[s[len(digits):]]
	if !ok || strings.Trim(digits, "0123456789") != "" {
		return 0, wrong
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, wrong
	}
	if n > int64(math.MaxInt64/unit) {
		return 0, fmt.Errorf("is longer than 292 years")
	}
	return time.Duration(n) * unit, nil
}

// accessLogFormat says what is wrong with an Envoy access-log format: commands are %NAME%, %NAME(argument)%
// or %NAME(argument):length%, and %% is a percent sign.
func accessLogFormat(s string) string {
	for {
		start := strings.IndexByte(s, '%')
		if start < 0 {
			return ""
		}
		s = s[start+1:]
		if rest, ok := strings.CutPrefix(s, "%"); ok {
			s = rest
			continue
		}
		name := s[:len(s)-len(strings.TrimLeft(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"))]
		s = s[len(name):]
		if name == "" {
			return "has a % that starts no command"
		}
		if strings.HasPrefix(s, "(") {
			end := strings.IndexByte(s, ')')
			if end < 0 {
				return fmt.Sprintf("has a command %s without a closing parenthesis", clip(name))
			}
			s = s[end+1:]
		}
		if length, ok := strings.CutPrefix(s, ":"); ok {
			s = strings.TrimLeft(length, "0123456789")
			if len(s) == len(length) {
				return fmt.Sprintf("has a command %s whose length is no number", clip(name))
			}
		}
		rest, ok := strings.CutPrefix(s, "%")
		if !ok {
			return fmt.Sprintf("has a command %s that is not closed by %%", clip(name))
		}
		s = rest
	}
}
