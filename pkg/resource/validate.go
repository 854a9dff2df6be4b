package resource

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const (
	mustBeDefined   = "has to be defined"
	cannotBeEmpty   = "cannot be empty"
	mustBePositive  = "has to be greater than 0"
	mustBeIP        = "has to be a valid IP address"
	mustBeIPOrDNS   = "has to be a valid IP address or domain name"
	mustBePort      = "has to be in the range [1, 65535]"
	mustBePortOrNil = "has to be in the range [0, 65535]"
)

const maxPort = 65535

// tagRules says what a set of tags must look like.
type tagRules struct {
	// selector allows "/" in values, and the value "*".
	selector bool
	// needTag and needService ask for at least one tag, and for the service tag.
	needTag, needService bool
	// only lists the tags that may stand there, the service tag first; nil: any.
	only []string
}

// check lists what is wrong with the tags at path; the keys in order.
func (r tagRules) check(v *Violations, path string, tags map[string]string) {
	keys := slices.Sorted(maps.Keys(tags))
	switch {
	case r.only != nil:
		extra := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return slices.Contains(r.only, k) })
		if len(keys) == 0 || len(extra) > 0 {
			v.Add(path, fmt.Sprintf("must consist of exactly one tag %q", r.only[0]))
		}
		for _, k := range extra {
			v.Add(keyPath(path, k), fmt.Sprintf("tag %q is not allowed", clip(k)))
		}
	case r.needTag && len(keys) == 0:
		v.Add(path, "must have at least one tag")
	}
	for _, k := range keys {
		if k == "" {
			v.Add(path, "tag name must be non-empty")
		} else if !isTagText(k, "._:/-") {
			v.Add(keyPath(path, k), `tag name must consist of letters, digits, ".", "_", ":", "/" and "-"`)
		}
		switch value := tags[k]; {
		case value == "":
			v.Add(keyPath(path, k), "tag value must be non-empty")
		case r.selector && value == "*":
		case r.selector && !isTagText(value, "._:/-"):
			v.Add(keyPath(path, k), `tag value must be "*", or consist of letters, digits, ".", "_", ":", "/" and "-"`)
		case !r.selector && !isTagText(value, "._:-"):
			v.Add(keyPath(path, k), `tag value must consist of letters, digits, ".", "_", ":" and "-"`)
		}
	}
	if _, ok := tags[TagService]; r.needService && !ok {
		v.Add(path, missingService)
	}
}

const missingService = `mandatory tag "` + TagService + `" is missing`

func isTagText(s, also string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte(also, c) < 0 {
			return false
		}
	}
	return true
}

func checkSelectors(v *Violations, path string, selectors []*meshv1.Selector, r tagRules) {
	if len(selectors) == 0 {
		v.Add(path, "must have at least one element")
	}
	for i, s := range selectors {
		r.check(v, indexPath(path, i)+".match", s.GetMatch())
	}
}

// anySource is what may stand among the sources of most policies.
func anySource() tagRules { return tagRules{selector: true, needTag: true, needService: true} }

// serviceOnly asks for the service tag, and allows no others but those given.
func serviceOnly(also ...string) tagRules {
	return tagRules{selector: true, needService: true, only: append([]string{TagService}, also...)}
}

// isProtocol knows the values of the protocol tag, in any case.
func isProtocol(s string) bool {
	switch strings.ToLower(s) {
	case "tcp", "http", "http2", "grpc", "kafka":
		return true
	}
	return false
}

func checkProtocol(v *Violations, path string, tags map[string]string) {
	if value, ok := tags[TagProtocol]; ok && !isProtocol(value) {
		v.Add(keyPath(path, TagProtocol), fmt.Sprintf("tag %q has an invalid value: it must be one of grpc, http, http2, kafka, tcp", TagProtocol))
	}
}

// checkServiceTags is for the tags of what offers a service. A missing service tag is named by its key.
func checkServiceTags(v *Violations, path string, tags map[string]string) {
	tagRules{}.check(v, path, tags)
	if _, ok := tags[TagService]; !ok {
		v.Add(keyPath(path, TagService), missingService)
	}
}

func checkPort(v *Violations, path string, port uint32) {
	if port < 1 || port > maxPort {
		v.Add(path, mustBePort)
	}
}

func checkOptionalPort(v *Violations, path string, port uint32) {
	if port > maxPort {
		v.Add(path, mustBePortOrNil)
	}
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

// isDNSName is as lenient as resolvers are: underscores and a final dot pass. A name of digits and dots is a
// mistyped address.
func isDNSName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' || !isTagText(label, "_-") {
			return false
		}
	}
	return true
}

func isHost(s string) bool { return isIP(s) || isDNSName(s) }

// splitHostPort takes "10.0.0.1:80", "[::1]:80" and "example.com:80" apart.
func splitHostPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = s[:i], s[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		host, bracketed = strings.CutSuffix(inner, "]")
		return host, port, bracketed && strings.Contains(host, ":")
	}
	return host, port, !strings.Contains(host, ":")
}

// checkHostPort names every fault of a HOST:PORT at the same path.
func checkHostPort(v *Violations, path, s string) {
	if s == "" {
		v.Add(path, cannotBeEmpty)
		return
	}
	host, port, ok := splitHostPort(s)
	if !ok {
		v.Add(path, "has to be HOST:PORT")
		return
	}
	if !isHost(host) {
		v.Add(path, "host "+mustBeIPOrDNS)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		v.Add(path, "port "+mustBePort)
	}
}

func isRequestPath(s string) bool {
	if !strings.HasPrefix(s, "/") {
		return false
	}
	_, err := url.ParseRequestURI(s)
	return err == nil
}

func isPositive(d *durationpb.Duration) bool {
	return d.GetSeconds() > 0 || d.GetSeconds() == 0 && d.GetNanos() > 0
}

// checkPositive looks at a duration that may be left out.
func checkPositive(v *Violations, path string, d *durationpb.Duration) {
	if d != nil && !isPositive(d) {
		v.Add(path, mustBePositive+" when defined")
	}
}

// checkDataSource asks for exactly one source that says something.
func checkDataSource(v *Violations, path string, d *meshv1.DataSource) {
	switch s := d.GetType().(type) {
	case nil:
		v.Add(path, "must have one of secret, file, inline, inlineString")
	case *meshv1.DataSource_Secret:
		checkNonEmpty(v, path+".secret", s.Secret)
	case *meshv1.DataSource_File:
		checkNonEmpty(v, path+".file", s.File)
	case *meshv1.DataSource_Inline:
		checkNonEmpty(v, path+".inline", string(s.Inline.GetValue()))
	case *meshv1.DataSource_InlineString:
		checkNonEmpty(v, path+".inlineString", s.InlineString)
	}
}

func checkNonEmpty(v *Violations, path, s string) {
	if s == "" {
		v.Add(path, cannotBeEmpty)
	}
}

// wrongMessage is what a validator answers that was given the message of another kind.
func wrongMessage(m any) Violations {
	return Violations{{Message: fmt.Sprintf("%T is not the message of this kind", m)}}
}
