{{/* What a schema cannot say: how values fit each other. Each refusal is a sentence that names what would help. */}}
{{- define "engine-cluster.validate" -}}
{{- $size := .Values.size -}}
{{- if gt (int $size.replicationFactor) (int $size.brokers) -}}
{{- fail (printf "size.replicationFactor is %d, and size.brokers only %d: each copy of a partition needs a broker of its own." (int $size.replicationFactor) (int $size.brokers)) -}}
{{- end -}}
{{- if gt (add (int64 $size.heapMiB) 320) (int64 $size.memoryMiB) -}}
{{- fail (printf "size.memoryMiB is %d: the engine needs 320 MiB besides its heap of %d." (int64 $size.memoryMiB) (int64 $size.heapMiB)) -}}
{{- end -}}
{{- if gt (add (int64 .Values.gateway.heapMiB) 256) (int64 .Values.gateway.memoryMiB) -}}
{{- fail (printf "gateway.memoryMiB is %d: a gateway needs 256 MiB besides its heap of %d." (int64 .Values.gateway.memoryMiB) (int64 .Values.gateway.heapMiB)) -}}
{{- end -}}
{{- if gt (add (int64 .Values.restore.heapMiB) 256) (int64 .Values.restore.memoryMiB) -}}
{{- fail (printf "restore.memoryMiB is %d: the restore program needs 256 MiB besides its heap of %d." (int64 .Values.restore.memoryMiB) (int64 .Values.restore.heapMiB)) -}}
{{- end -}}
{{- if not (or .Values.tls.existingSecret (and .Values.tls.certificate .Values.tls.key)) -}}
{{- fail "tls: give existingSecret, or certificate and key. Tokens must not travel in clear." -}}
{{- end -}}
{{- if not (or .Values.tokenKeys.existingConfigMap .Values.tokenKeys.jwks) -}}
{{- fail "tokenKeys: give jwks or existingConfigMap. Without keys the engine lets nobody in." -}}
{{- end -}}
{{- if .Values.tokenKeys.jwks -}}
{{- if not (kindIs "slice" (get (fromJson .Values.tokenKeys.jwks) "keys")) -}}
{{- fail "tokenKeys.jwks: must be a JSON document with a list under \"keys\"." -}}
{{- end -}}
{{- if regexMatch "\"(d|p|q|k)\"\\s*:" .Values.tokenKeys.jwks -}}
{{- fail "tokenKeys.jwks: holds a private key. Only the public half belongs here, and the one you gave is burnt." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.license.key .Values.license.existingSecret -}}
{{- fail "license: give existingSecret or key, not both." -}}
{{- end -}}
{{- if .Values.backupStore.enabled -}}
{{- range $name := list "endpoint" "bucket" -}}
{{- if not (get $.Values.backupStore $name) -}}
{{- fail (printf "backupStore.%s: is needed when backupStore.enabled." $name) -}}
{{- end -}}
{{- end -}}
{{- if not (or .Values.backupStore.existingSecret (and .Values.backupStore.accessKey .Values.backupStore.secretKey)) -}}
{{- fail "backupStore: give existingSecret, or accessKey and secretKey." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.backupStore.network.cidr) -}}
{{- fail "backupStore.network.cidr: is needed, or no broker can reach the store (such as 198.51.100.7/32)." -}}
{{- end -}}
{{- end -}}
{{- if .Values.restore.enabled -}}
{{- if not .Values.backupStore.enabled -}}
{{- fail "restore: needs backupStore, where the backup is." -}}
{{- end -}}
{{- if lt (int64 .Values.restore.backup) 1 -}}
{{- fail "restore.backup: name the backup's number." -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.edge.kind "tlsRoute" -}}
{{- if not (and .Values.edge.tlsRoute.gateway .Values.edge.tlsRoute.grpcListener) -}}
{{- fail "edge.tlsRoute: give gateway and grpcListener, the Gateway and its listener for gRPC." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.managementFrom) -}}
{{- fail "monitoring.serviceMonitor: nobody may reach the management port. Name the scraper's pods in networkPolicy.managementFrom, or leave this off; whoever reaches that port can also delete backups." -}}
{{- end -}}
{{- end }}
