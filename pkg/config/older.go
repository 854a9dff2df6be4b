package config

// ignoredOther is why a key of the other kind of control plane has no effect.
const ignoredOther = "it means nothing to this kind of control plane"

// olderNames leads from the published names of keys that are called otherwise here, or were once, to ours.
func olderNames() map[string]string {
	return map[string]string{ //nolint:gosec // names of keys, no credentials
		"multizone.remote.zone":              "multizone.zone.name",
		"multizone.remote.name":              "multizone.zone.name",
		"multizone.remote.globalAddress":     "multizone.zone.globalAddress",
		"multizone.remote.kds.rootCaFile":    "multizone.zone.kds.rootCaFile",
		"multizone.remote.kds.tlsSkipVerify": "multizone.zone.kds.tlsSkipVerify",
		"multizone.remote.kds.tokenFile":     "multizone.zone.kds.tokenFile",
		"multizone.remote.kds.tlsCertFile":   "multizone.zone.kds.tlsCertFile",
		"multizone.remote.kds.tlsKeyFile":    "multizone.zone.kds.tlsKeyFile",
		"apiServer.port":                     "apiServer.http.port",
		"adminServer.public.interface":       "apiServer.https.interface",
		"adminServer.public.port":            "apiServer.https.port",
		"adminServer.public.tlsCertFile":     "apiServer.https.tlsCertFile",
		"adminServer.public.tlsKeyFile":      "apiServer.https.tlsKeyFile",
		"adminServer.public.clientCertsDir":  "apiServer.auth.clientCertsDir",
		"xdsServer.grpcPort":                 "dpServer.port",
		"xdsServer.diagnosticsPort":          "diagnostics.serverPort",
	}
}

// ignoredKeys are documented keys of published releases that have no meaning here, with the reason.
func ignoredKeys() map[string]string {
	const (
		postgres   = "there is no PostgreSQL store"
		kubernetes = "there is no Kubernetes store"
		noTimer    = "nothing is polled or put off, so there is no interval to set"
		noServer   = "this server does not exist"
		fixed      = "it can't be changed"
	)
	groups := map[string][]string{
		postgres: {
			"store.postgres.host", "store.postgres.port", "store.postgres.user", "store.postgres.password", "store.postgres.dbName",
			"store.postgres.connectionTimeout", "store.postgres.maxOpenConnections",
			"store.postgres.tls.mode", "store.postgres.tls.certPath", "store.postgres.tls.keyPath", "store.postgres.tls.caPath",
			"store.postgres.minReconnectInterval", "store.postgres.maxReconnectInterval",
		},
		kubernetes: {
			"store.kubernetes.systemNamespace",
			"runtime.kubernetes.admissionServer.address", "runtime.kubernetes.admissionServer.certDir", "runtime.kubernetes.admissionServer.port",
		},
		"reads come from memory":                   {"store.cache.enabled", "store.cache.expirationTime"},
		"conflicts are decided in the transaction": {"store.upsert.conflictRetryBaseBackoff", "store.upsert.conflictRetryMaxTimes"},
		noTimer: {
			"discovery.universal.pollingInterval",
			"sdsServer.dataplaneConfigurationRefreshInterval",
			"xdsServer.dataplaneConfigurationRefreshInterval", "xdsServer.dataplaneStatusFlushInterval", "xdsServer.nackBackoff",
			"monitoringAssignmentServer.assignmentRefreshInterval",
			"metrics.mesh.minResyncTimeout", "metrics.mesh.maxResyncTimeout",
			"multizone.global.pollTimeout", "multizone.global.kds.refreshInterval", "multizone.global.kds.zoneInsightFlushInterval",
			"multizone.remote.kds.refreshInterval", "multizone.zone.kds.refreshInterval",
		},
		noServer: {
			"sdsServer.grpcPort", "sdsServer.tlsCertFile", "sdsServer.tlsKeyFile",
			"bootstrapServer.port", "guiServer.port", "guiServer.apiServerUrl",
			"xdsServer.tlsCertFile", "xdsServer.tlsKeyFile",
			"dpServer.hds.enabled", "dpServer.hds.interval", "dpServer.hds.refreshInterval",
			"dpServer.hds.checkDefaults.timeout", "dpServer.hds.checkDefaults.interval", "dpServer.hds.checkDefaults.noTrafficInterval",
			"dpServer.hds.checkDefaults.healthyThreshold", "dpServer.hds.checkDefaults.unhealthyThreshold",
		},
		fixed: {
			"bootstrapServer.apiVersion",
			"bootstrapServer.params.adminAddress", "bootstrapServer.params.adminPort", "bootstrapServer.params.adminAccessLogPath",
			"bootstrapServer.params.xdsHost", "bootstrapServer.params.xdsPort", "bootstrapServer.params.xdsConnectTimeout",
			"runtime.universal.dataplaneCleanupAge",
			"metrics.dataplane.enabled", "metrics.dataplane.subscriptionLimit", "metrics.zone.enabled", "metrics.zone.subscriptionLimit",
			"general.dnsCacheTTL",
			"dnsServer.domain", "dnsServer.CIDR",
		},
		"nothing is ever reported to anyone": {"reports.enabled"},
		"what administrators need is served wherever the API is served over HTTPS (apiServer.https.enabled)": {"adminServer.public.enabled"},
		"administrators can have tokens made wherever there is an API":                                       {"adminServer.apis.dataplaneToken.enabled"},
		"adminServer is its newer name": {
			"dataplaneTokenServer.enabled", "dataplaneTokenServer.local.port",
			"dataplaneTokenServer.public.enabled", "dataplaneTokenServer.public.interface", "dataplaneTokenServer.public.port",
			"dataplaneTokenServer.public.tlsCertFile", "dataplaneTokenServer.public.tlsKeyFile", "dataplaneTokenServer.public.clientCertsDir",
		},
	}
	out := map[string]string{}
	for why, paths := range groups {
		for _, p := range paths {
			out[p] = why
		}
	}
	return out
}
