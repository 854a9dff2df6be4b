package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What a page of another site may send and read beyond what every page may. Authorization comes without credentials of
// the browser's own.
const (
	allowedHeaders = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID, Meridian-Min-Revision, X-Request-Id"
	exposedHeaders = "Access-Control-Allow-Origin, Allow, ETag, Location, WWW-Authenticate, Warning, X-Request-Id, " + revisionHeader + ", " + dryRunHeader
)

// origins are the pages of other sites that may read the API in a browser.
type origins struct {
	// literal are origins, hosts, or hosts with their ports.
	literal []string
	// patterns match the whole of one of these.
	patterns []*regexp.Regexp
}

// newOrigins takes a list of domains and regular expressions. What has no character of an expression but the dot is a
// domain: example.com is not exampleXcom.
func newOrigins(list []string) (origins, error) {
	var o origins
	for i, s := range list {
		if s == "" {
			return origins{}, fmt.Errorf("corsAllowedDomains[%d]: is empty", i)
		}
		if regexp.QuoteMeta(s) == strings.ReplaceAll(s, ".", `\.`) {
			o.literal = append(o.literal, s)
			continue
		}
		// By itself at first: it must not close the group that anchors it.
		if _, err := regexp.Compile(s); err != nil {
			return origins{}, fmt.Errorf("corsAllowedDomains[%d]: %q is neither a domain nor a regular expression: %w", i, s, err)
		}
		re, err := regexp.Compile(`\A(?i:` + s + `)\z`)
		if err != nil {
			return origins{}, fmt.Errorf("corsAllowedDomains[%d]: %w", i, err)
		}
		o.patterns = append(o.patterns, re)
	}
	return o, nil
}

// none says that no page of another site may do anything.
func (o origins) none() bool { return len(o.literal)+len(o.patterns) == 0 }

// allow tells whether an origin is one of them. A page without an origin of its own ("null") is never.
func (o origins) allow(origin string) bool {
	if origin == "" || o.none() {
		return false
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" || !strings.EqualFold(u.Scheme+"://"+u.Host, origin) {
		return false
	}
	for _, s := range []string{origin, u.Host, u.Hostname()} {
		is := func(d string) bool { return strings.EqualFold(d, s) }
		matches := func(re *regexp.Regexp) bool { return re.MatchString(s) }
		if slices.ContainsFunc(o.literal, is) || slices.ContainsFunc(o.patterns, matches) {
			return true
		}
	}
	return false
}

// headers tells the browser what a page may read of the answer.
func (o origins) headers(w http.ResponseWriter, r *http.Request) {
	if o.none() {
		return
	}
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); o.allow(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", exposedHeaders)
	}
}

// preflight answers a browser's question about a route, and says whether it was one.
func (o origins) preflight(w http.ResponseWriter, r *http.Request, to route) bool {
	method := r.Header.Get("Access-Control-Request-Method")
	if r.Method != http.MethodOptions || method == "" || o.none() {
		return false
	}
	h := w.Header()
	if o.allow(r.Header.Get("Origin")) && to.takes(method) && allHeadersAllowed(r.Header.Get("Access-Control-Request-Headers")) {
		h.Set("Access-Control-Allow-Methods", strings.ReplaceAll(to.allow, " ", ""))
		h.Set("Access-Control-Allow-Headers", allowedHeaders)
	} else {
		h.Del("Access-Control-Allow-Origin")
		h.Del("Access-Control-Expose-Headers")
	}
	w.WriteHeader(http.StatusOK)
	return true
}

// allHeadersAllowed says whether a page may send these headers, a list as a browser writes it.
func allHeadersAllowed(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		known := func(h string) bool { return strings.EqualFold(h, strings.TrimSpace(name)) }
		if strings.TrimSpace(name) != "" && !slices.ContainsFunc(strings.Split(allowedHeaders, ", "), known) {
			return false
		}
	}
	return true
}
