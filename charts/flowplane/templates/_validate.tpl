{{/* What a schema cannot say. Each refusal is a sentence that names what would help. */}}
{{- define "flowplane.validate" -}}
{{- if eq .Release.Namespace "flowplane-system" -}}
{{- fail "Not into flowplane-system: a region's memory lies there, and has to outlive us. Choose another namespace." -}}
{{- end -}}
{{- if hasPrefix "fp-" .Release.Namespace -}}
{{- fail "Not into a namespace fp-...: those are engine clusters' own. Choose another namespace." -}}
{{- end -}}
{{- range $name, $value := dict "image.repository" .Values.image.repository "addresses.public" .Values.addresses.public "addresses.api" .Values.addresses.api "mail.from" .Values.mail.from "region.slug" .Values.region.slug "region.domain" .Values.region.domain -}}
{{- if not $value -}}
{{- fail (printf "%s: has to be set." $name) -}}
{{- end -}}
{{- end -}}
{{- if .Values.backupStore.enabled -}}
{{- range $name := list "endpoint" "bucket" -}}
{{- if not (get $.Values.backupStore $name) -}}
{{- fail (printf "backupStore.%s: is needed when backupStore.enabled." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not (and .Values.ingress.className .Values.ingress.tlsSecret)) -}}
{{- fail "ingress: give className and tlsSecret. Passwords and tokens must not travel in clear." -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and (not $policy.database.peers) (not .Values.trial.postgres.enabled) -}}
{{- fail "networkPolicy.database.peers: is needed, or nobody reaches PostgreSQL." -}}
{{- end -}}
{{- if and (not $policy.broker.peers) (not .Values.trial.redis.enabled) -}}
{{- fail "networkPolicy.broker.peers: is needed, or nobody reaches Redis." -}}
{{- end -}}
{{- if not $policy.mail.peers -}}
{{- fail "networkPolicy.mail.peers: is needed, or no mail is sent, and nobody can sign up." -}}
{{- end -}}
{{- if not $policy.kubernetesApi.peers -}}
{{- fail "networkPolicy.kubernetesApi.peers: is needed, or no region is reached: the addresses of the API servers themselves, not of the Service `kubernetes`." -}}
{{- end -}}
{{- if and .Values.backupStore.enabled (not $policy.backupStore.peers) -}}
{{- fail "networkPolicy.backupStore.peers: is needed, or backups cannot be looked after." -}}
{{- end -}}
{{- end -}}
{{- end }}
