// Package config holds what a control plane can be told: one struct each for the global and the zone control
// plane, filled from defaults, a YAML file and the environment, in this order.
package config

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// The values of keys that name one of several ways.
const (
	StoreSQLite = "sqlite"
	StoreMemory = "memory"

	ZoneToken  = "zoneToken"
	ClientCert = "clientCert"
	DPToken    = "dpToken"
	None       = "none"

	ModeGlobal     = "global"
	ModeZone       = "zone"
	ModeStandalone = "standalone"

	// kdsPort is where a global control plane listens if its address names no port.
	kdsPort = "5685"
)

// Global is the configuration of a global control plane.
type Global struct {
	Environment string          `json:"environment" help:"always universal"`
	Mode        string          `json:"mode" help:"global; of a zone control plane zone or standalone, as multizone.zone.globalAddress is set or not"`
	General     General         `json:"general"`
	Store       Store           `json:"store"`
	APIServer   APIServer       `json:"apiServer"`
	AdminServer AdminServer     `json:"adminServer"`
	Multizone   GlobalMultizone `json:"multizone"`
	Diagnostics Diagnostics     `json:"diagnostics"`
	Defaults    Defaults        `json:"defaults"`
	Limits      GlobalLimits    `json:"limits"`
}

// Zone is the configuration of a zone control plane.
type Zone struct {
	Environment                string               `json:"environment" help:"always universal"`
	Mode                       string               `json:"mode" help:"global; of a zone control plane zone or standalone, as multizone.zone.globalAddress is set or not"`
	General                    General              `json:"general"`
	Store                      Store                `json:"store"`
	APIServer                  APIServer            `json:"apiServer"`
	AdminServer                AdminServer          `json:"adminServer"`
	Multizone                  ZoneMultizone        `json:"multizone"`
	DPServer                   DPServer             `json:"dpServer"`
	Diagnostics                Diagnostics          `json:"diagnostics"`
	DNSServer                  DNSServer            `json:"dnsServer"`
	MonitoringAssignmentServer MonitoringAssignment `json:"monitoringAssignmentServer"`
	Defaults                   Defaults             `json:"defaults"`
	Limits                     ZoneLimits           `json:"limits"`
}

// General is what concerns the process as a whole.
type General struct {
	WorkDir     string `json:"workDir" help:"directory of the process's own files"`
	TLSCertFile string `json:"tlsCertFile" help:"certificate of every TLS port that has none of its own"`
	TLSKeyFile  string `json:"tlsKeyFile" help:"key of general.tlsCertFile"`
	// AdvertisedHostname is empty where clients know this machine by the name that they have called it by.
	AdvertisedHostname string `json:"advertisedHostname" help:"host name or address of this machine in /catalog; else the one that the request has"`
}

// Store is where resources are kept.
type Store struct {
	Type              string `json:"type" help:"sqlite or memory"`
	SQLite            SQLite `json:"sqlite"`
	EncryptionKeyFile string `json:"encryptionKeyFile" help:"key with which secrets are encrypted in the store; made if it does not exist"`
}

// SQLite is the embedded store.
type SQLite struct {
	Path string `json:"path" help:"file of the sqlite store"`
}

// APIServer is the REST API.
type APIServer struct {
	HTTP  APIServerHTTP  `json:"http"`
	HTTPS APIServerHTTPS `json:"https"`
	Auth  APIServerAuth  `json:"auth"`
	// ReadOnly makes every write a 405.
	ReadOnly           bool     `json:"readOnly" help:"refuse every write"`
	CORSAllowedDomains []string `json:"corsAllowedDomains" help:"origins (domains or regular expressions) whose pages may call the API"`
}

// APIServerHTTP is the plain port of the REST API.
type APIServerHTTP struct {
	Enabled           bool   `json:"enabled" help:"serve the API over plain HTTP"`
	Interface         string `json:"interface" help:"interface of the plain API"`
	Port              int    `json:"port" help:"port of the plain API"`
	AllowRemoteWrites bool   `json:"allowRemoteWrites" help:"let anyone write over plain HTTP who can reach the port"`
}

// APIServerHTTPS is the TLS port of the REST API.
type APIServerHTTPS struct {
	Enabled     bool   `json:"enabled" help:"serve the API over HTTPS"`
	Interface   string `json:"interface" help:"interface of the API over HTTPS"`
	Port        int    `json:"port" help:"port of the API over HTTPS"`
	TLSCertFile string `json:"tlsCertFile" help:"certificate of the API over HTTPS"`
	TLSKeyFile  string `json:"tlsKeyFile" help:"key of apiServer.https.tlsCertFile"`
}

// AdminServer is the port that administrators have in the documents of 0.3 to 0.6. Its public form is the API over
// HTTPS.
type AdminServer struct {
	Local AdminServerLocal `json:"local"`
}

// AdminServerLocal is its plain form, on loopback.
type AdminServerLocal struct {
	Enabled bool `json:"enabled" help:"serve tokens, secrets and provided CAs on a plain port of 127.0.0.1, for clients of 0.3 to 0.6"`
	Port    int  `json:"port" help:"port of adminServer.local"`
}

// APIServerAuth says who is an admin.
type APIServerAuth struct {
	Type               string `json:"type" help:"tokens"`
	ClientCertsDir     string `json:"clientCertsDir" help:"directory of the certificates (*.pem, *.crt) that client certificates are verified with"`
	AllowFromLocalhost bool   `json:"allowFromLocalhost" help:"make callers from this machine admins; switch it off behind a proxy on the same host"`
}

// GlobalMultizone is what the global control plane does for zones.
type GlobalMultizone struct {
	Global GlobalMultizoneGlobal `json:"global"`
}

// GlobalMultizoneGlobal exists for the nesting of the published keys.
type GlobalMultizoneGlobal struct {
	KDS GlobalKDS `json:"kds"`
}

// GlobalKDS is the port that zones dial.
type GlobalKDS struct {
	Interface      string  `json:"interface" help:"interface of the port for zones"`
	GRPCPort       int     `json:"grpcPort" help:"port for zones"`
	TLSCertFile    string  `json:"tlsCertFile" help:"certificate of the port for zones"`
	TLSKeyFile     string  `json:"tlsKeyFile" help:"key of multizone.global.kds.tlsCertFile"`
	ClientCertsDir string  `json:"clientCertsDir" help:"directory of the certificates that zones' certificates are verified with"`
	Auth           KDSAuth `json:"auth"`
}

// KDSAuth says how zones authenticate.
type KDSAuth struct {
	Type string `json:"type" help:"how zones authenticate: zoneToken, clientCert, or none (any peer is the zone it says it is)"`
}

// ZoneMultizone is the zone's place among others.
type ZoneMultizone struct {
	Zone ZoneMultizoneZone `json:"zone"`
}

// ZoneMultizoneZone is the zone's name and its global control plane.
type ZoneMultizoneZone struct {
	Name string `json:"name" help:"name of the zone, a DNS label"`
	// GlobalAddress is empty for a standalone control plane, else grpcs://host:port.
	GlobalAddress string  `json:"globalAddress" help:"the global control plane, grpcs://host:port; without it the zone is standalone"`
	KDS           ZoneKDS `json:"kds"`
}

// ZoneKDS is how the zone dials the global control plane.
type ZoneKDS struct {
	RootCAFile    string `json:"rootCaFile" help:"CA that the global control plane's certificate is verified with; else the system's"`
	TLSSkipVerify bool   `json:"tlsSkipVerify" help:"do not verify the global control plane's certificate"`
	TokenFile     string `json:"tokenFile" help:"file of the zone token, read at each connect"`
	TLSCertFile   string `json:"tlsCertFile" help:"client certificate that the zone shows"`
	TLSKeyFile    string `json:"tlsKeyFile" help:"key of multizone.zone.kds.tlsCertFile"`
	Resync        bool   `json:"resync" help:"replace a copy of another global store than the one that is dialled, and a damaged store, by what the global control plane has; meant for one start (also: --resync)"`
	DiscardLocal  bool   `json:"discardLocal" help:"give up the policies that were written here while the zone was standalone; meant for one start"`
}

// DPServer is the port that data plane proxies dial.
type DPServer struct {
	Interface   string     `json:"interface" help:"interface of the port for data plane proxies"`
	Port        int        `json:"port" help:"port for data plane proxies"`
	TLSCertFile string     `json:"tlsCertFile" help:"certificate of the port for data plane proxies"`
	TLSKeyFile  string     `json:"tlsKeyFile" help:"key of dpServer.tlsCertFile"`
	Auth        DPAuthType `json:"auth"`
}

// DPAuthType says how data plane proxies authenticate.
type DPAuthType struct {
	Type string `json:"type" help:"how data plane proxies authenticate: dpToken, or none (any proxy is who it says it is)"`

	AcceptLegacyTokens bool `json:"acceptLegacyTokens" help:"take the endless HS256 tokens of the published release too, which it made from the bytes of the meshes' signing keys; on a standalone zone control plane only"`
}

// Diagnostics is the port for health and metrics.
type Diagnostics struct {
	Interface      string `json:"interface" help:"interface of the diagnostics port"`
	ServerPort     int    `json:"serverPort" help:"port of health and metrics"`
	DebugEndpoints bool   `json:"debugEndpoints" help:"serve /debug/pprof there too"`
}

// DNSServer resolves the names of services.
type DNSServer struct {
	Interface string `json:"interface" help:"interface of the DNS server"`
	Port      int    `json:"port" help:"port of the DNS server"`
}

// MonitoringAssignment tells Prometheus what to scrape.
type MonitoringAssignment struct {
	Interface string `json:"interface" help:"interface of the monitoring assignment server"`
	GRPCPort  int    `json:"grpcPort" help:"port of the monitoring assignment server"`
}

// Defaults is what a first start makes.
type Defaults struct {
	SkipMeshCreation bool `json:"skipMeshCreation" help:"do not make the mesh default"`
	// Mesh is YAML; the file may hold it as text or as a mapping. It can carry keys of a CA.
	Mesh string `json:"mesh" secret:"true" help:"the mesh default as YAML"`
}

// DefaultGlobal gives the defaults of a global control plane, but for the paths below general.workDir.
func DefaultGlobal() Global {
	return Global{
		Environment: "universal",
		Mode:        ModeGlobal,
		Store:       Store{Type: StoreSQLite},
		APIServer:   defaultAPIServer(),
		AdminServer: defaultAdminServer(),
		Multizone: GlobalMultizone{Global: GlobalMultizoneGlobal{KDS: GlobalKDS{
			Interface: "0.0.0.0", GRPCPort: 5685, Auth: KDSAuth{Type: ZoneToken},
		}}},
		Diagnostics: defaultDiagnostics(),
		Limits:      defaultGlobalLimits(),
	}
}

// DefaultZone gives the defaults of a zone control plane, but for the paths below general.workDir, the mode
// and the zone's name.
func DefaultZone() Zone {
	return Zone{
		Environment:                "universal",
		Store:                      Store{Type: StoreSQLite},
		APIServer:                  defaultAPIServer(),
		AdminServer:                defaultAdminServer(),
		DPServer:                   DPServer{Interface: "0.0.0.0", Port: 5678, Auth: DPAuthType{Type: DPToken}},
		Diagnostics:                defaultDiagnostics(),
		DNSServer:                  DNSServer{Interface: "127.0.0.1", Port: 5653},
		MonitoringAssignmentServer: MonitoringAssignment{Interface: "127.0.0.1", GRPCPort: 5676},
		Limits:                     defaultZoneLimits(),
	}
}

func defaultAPIServer() APIServer {
	return APIServer{
		HTTP:  APIServerHTTP{Enabled: true, Interface: "127.0.0.1", Port: 5681},
		HTTPS: APIServerHTTPS{Enabled: true, Interface: "0.0.0.0", Port: 5682},
		Auth:  APIServerAuth{Type: "tokens", AllowFromLocalhost: true},
		// Not nil: it is a list in JSON too.
		CORSAllowedDomains: []string{},
	}
}

func defaultAdminServer() AdminServer {
	return AdminServer{Local: AdminServerLocal{Port: 5679}}
}

func defaultDiagnostics() Diagnostics {
	return Diagnostics{Interface: "127.0.0.1", ServerPort: 5680}
}

// complete fills in what depends on other keys.
func (c *Global) complete(home string) {
	c.General.complete(home, "global")
	c.Store.complete(c.General.WorkDir, "global-cp.db")
	c.General.pair(&c.APIServer.HTTPS.TLSCertFile, &c.APIServer.HTTPS.TLSKeyFile)
	c.General.pair(&c.Multizone.Global.KDS.TLSCertFile, &c.Multizone.Global.KDS.TLSKeyFile)
}

func (c *Zone) complete(home string) {
	z := &c.Multizone.Zone
	if c.Mode == "" || c.Mode == "remote" {
		c.Mode = ModeZone
		if z.GlobalAddress == "" {
			c.Mode = ModeStandalone
		}
	}
	if z.Name == "" && z.GlobalAddress == "" {
		z.Name = "default"
	}
	if u, err := url.Parse(z.GlobalAddress); err == nil && u.Host != "" && u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), kdsPort)
		z.GlobalAddress = u.String()
	}
	c.General.complete(home, filepath.Join("zones", z.Name))
	c.Store.complete(c.General.WorkDir, "zone-cp.db")
	c.General.pair(&c.APIServer.HTTPS.TLSCertFile, &c.APIServer.HTTPS.TLSKeyFile)
	c.General.pair(&c.DPServer.TLSCertFile, &c.DPServer.TLSKeyFile)
}

func (g *General) complete(home, dir string) {
	if g.WorkDir == "" && home != "" {
		g.WorkDir = filepath.Join(home, ".meridian", dir)
	}
}

// pair gives a TLS port the general certificate where it has none.
func (g *General) pair(cert, key *string) {
	if *cert == "" && *key == "" {
		*cert, *key = g.TLSCertFile, g.TLSKeyFile
	}
}

func (s *Store) complete(workDir, db string) {
	if workDir == "" {
		return
	}
	if s.SQLite.Path == "" {
		s.SQLite.Path = filepath.Join(workDir, db)
	}
	if s.EncryptionKeyFile == "" {
		s.EncryptionKeyFile = filepath.Join(workDir, "store.key")
	}
}

// Validate gives the first thing that is wrong; the error begins with the key.
func (c *Global) Validate() error {
	k := c.Multizone.Global.KDS
	return firstError(
		oneOf("environment", c.Environment, "universal"),
		oneOf("mode", c.Mode, ModeGlobal),
		c.General.validate(),
		c.Store.validate(),
		c.APIServer.validate(),
		pair("multizone.global.kds", k.TLSCertFile, k.TLSKeyFile),
		oneOf("multizone.global.kds.auth.type", k.Auth.Type, ZoneToken, ClientCert, None),
		needs(k.Auth.Type == ClientCert && k.ClientCertsDir == "", "multizone.global.kds.clientCertsDir", "is needed where multizone.global.kds.auth.type is clientCert"),
		c.Limits.validate(),
	)
}

// Validate gives the first thing that is wrong; the error begins with the key.
func (c *Zone) Validate() error {
	z := c.Multizone.Zone
	return firstError(
		oneOf("environment", c.Environment, "universal"),
		oneOf("mode", c.Mode, ModeZone, ModeStandalone),
		needs(c.Mode == ModeZone && z.GlobalAddress == "", "multizone.zone.globalAddress", "is needed where mode is zone"),
		needs(c.Mode == ModeStandalone && z.GlobalAddress != "", "mode", "is standalone, but multizone.zone.globalAddress is set"),
		zoneName("multizone.zone.name", z.Name),
		globalAddress("multizone.zone.globalAddress", z.GlobalAddress),
		pair("multizone.zone.kds", z.KDS.TLSCertFile, z.KDS.TLSKeyFile),
		c.General.validate(),
		c.Store.validate(),
		c.APIServer.validate(),
		pair("dpServer", c.DPServer.TLSCertFile, c.DPServer.TLSKeyFile),
		oneOf("dpServer.auth.type", c.DPServer.Auth.Type, DPToken, None),
		needs(c.Mode == ModeZone && c.DPServer.Auth.AcceptLegacyTokens, "dpServer.auth.acceptLegacyTokens", "is for a standalone zone control plane: one that has joined a global one does not get the keys that it made tokens from"),
		c.Limits.validate(),
	)
}

func (g *General) validate() error {
	return firstError(
		needs(g.WorkDir == "", "general.workDir", "is needed where HOME is not set"),
		pair("general", g.TLSCertFile, g.TLSKeyFile),
	)
}

func (s *Store) validate() error { return oneOf("store.type", s.Type, StoreSQLite, StoreMemory) }

func (a *APIServer) validate() error {
	errs := []error{
		oneOf("apiServer.auth.type", a.Auth.Type, "tokens"),
		pair("apiServer.https", a.HTTPS.TLSCertFile, a.HTTPS.TLSKeyFile),
	}
	for i, d := range a.CORSAllowedDomains {
		if _, err := regexp.Compile(d); err != nil {
			errs = append(errs, fmt.Errorf("apiServer.corsAllowedDomains[%d]: %w", i, err))
		}
	}
	return firstError(errs...)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s: must be %s, got %q", key, strings.Join(allowed, " or "), value)
}

func needs(wrong bool, key, what string) error {
	if wrong {
		return fmt.Errorf("%s: %s", key, what)
	}
	return nil
}

func pair(prefix, cert, key string) error {
	return firstError(
		needs(cert == "" && key != "", prefix+".tlsCertFile", "is needed beside "+prefix+".tlsKeyFile"),
		needs(cert != "" && key == "", prefix+".tlsKeyFile", "is needed beside "+prefix+".tlsCertFile"),
	)
}

var zoneLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func zoneName(key, name string) error {
	return firstError(
		needs(name == "", key, "is needed beside multizone.zone.globalAddress"),
		needs(!zoneLabel.MatchString(name), key, fmt.Sprintf("must be a DNS label (lower-case letters, digits and -, at most 63), got %q", name)),
		needs(name == "global", key, `"global" is the global control plane's`),
	)
}

func globalAddress(key, address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if u.Scheme != "grpcs" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%s: must be grpcs://host:port, got %q", key, address)
	}
	return nil
}

// redacted stands in for a secret value.
const redacted = "*****"

// JSON is the configuration as /config shows it: secrets are not in it.
func (c Global) JSON() ([]byte, error) { return redactedJSON(&c) }

// JSON is the configuration as /config shows it: secrets are not in it.
func (c Zone) JSON() ([]byte, error) { return redactedJSON(&c) }

// redactedJSON may write into *c: it is the caller's copy.
func redactedJSON(c any) ([]byte, error) {
	for _, k := range keysOf(c) {
		if k.secret && k.value.Kind() == reflect.String && k.value.String() != "" {
			k.value.SetString(redacted)
		}
	}
	out, err := json.MarshalIndent(c, "", " ")
	return append(out, '\n'), err
}
