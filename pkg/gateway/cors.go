package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// origins are the pages of other sites that may read the API in a browser.
type origins struct {
	domains  []string
	patterns []*regexp.Regexp
}

// newOrigins takes a list of domains and regular expressions; an expression must match the whole of an origin
// or of its host.
func newOrigins(list []string) (origins, error) {
	var o origins
	for i, s := range list {
		re, err := regexp.Compile("^(?i:" + s + ")$")
		if err != nil {
			return origins{}, fmt.Errorf("corsAllowedDomains[%d]: %q is neither a domain nor a regular expression: %w", i, s, err)
		}
		o.domains = append(o.domains, s)
		o.patterns = append(o.patterns, re)
	}
	return o, nil
}

func (o origins) allow(origin string) bool {
	if origin == "" || len(o.domains) == 0 {
		return false
	}
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	for i, d := range o.domains {
		for _, s := range []string{origin, u.Host, u.Hostname()} {
			if strings.EqualFold(d, s) || o.patterns[i].MatchString(s) {
				return true
			}
		}
	}
	return false
}

// headers tells the browser what a page may read of the answer.
func (o origins) headers(w http.ResponseWriter, r *http.Request) {
	if len(o.domains) == 0 {
		return
	}
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); o.allow(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", "Access-Control-Allow-Origin, ETag, Warning, "+revisionHeader+", "+dryRunHeader)
	}
}

// preflight answers a browser's question about a route, and says whether it was one.
func (o origins) preflight(w http.ResponseWriter, r *http.Request, to route) bool {
	method := r.Header.Get("Access-Control-Request-Method")
	if r.Method != http.MethodOptions || method == "" || len(o.domains) == 0 {
		return false
	}
	h := w.Header()
	if o.allow(r.Header.Get("Origin")) && to.takes(method) && allHeadersAllowed(r.Header.Get("Access-Control-Request-Headers")) {
		h.Set("Access-Control-Allow-Methods", strings.ReplaceAll(to.allow, " ", ""))
		h.Set("Access-Control-Allow-Headers", "content-type, authorization")
	} else {
		h.Del("Access-Control-Allow-Origin")
		h.Del("Access-Control-Expose-Headers")
	}
	w.WriteHeader(http.StatusOK)
	return true
}

func allHeadersAllowed(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "content-type") && !strings.EqualFold(name, "authorization") {
			return false
		}
	}
	return true
}
