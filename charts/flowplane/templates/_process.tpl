{{/* Names of web, without port. */}}
{{- define "flowplane.hosts" -}}
{{- $hosts := list -}}
{{- range list .Values.addresses.public .Values.addresses.api -}}
{{- $hosts = append $hosts (urlParse . | dig "host" "" | splitList ":" | first) -}}
{{- end -}}
{{ concat $hosts .Values.addresses.alsoAllowed | uniq | join "," }}
{{- end }}

{{/*
Settings of a process. What is secret is a file: it is in no environment, which child processes inherit. Who has no use
for a secret does not get it: `isEngineer` are worker and clock, which take turns.
*/}}
{{- define "flowplane.environment" -}}
{{- $values := .root.Values -}}
{{- $isEngineer := has .component (list "worker" "clock") -}}
{{- $folder := "/etc/flowplane" -}}
env:
  - {name: PYTHONUNBUFFERED, value: "1"}
  - {name: PYTHONDONTWRITEBYTECODE, value: "1"}
  - {name: HOME, value: /tmp}
  {{- range $name, $file := dict "SECRET_KEY" "secret-key" "MASTER_KEYS" "master-keys" "CREDENTIAL_PEPPER" "credential-pepper" "EMAIL_URL" "email-url" }}
  - {name: FLOWPLANE_{{ $name }}_FILE, value: {{ $folder }}/{{ $file }}}
  {{- end }}
  {{- if $values.secrets.withLicense }}
  - {name: FLOWPLANE_CAMUNDA_LICENSE_KEY_FILE, value: {{ $folder }}/camunda-license-key}
  {{- end }}
  {{- if $values.secrets.withMetricsToken }}
  - {name: FLOWPLANE_METRICS_TOKEN_FILE, value: {{ $folder }}/metrics-token}
  {{- end }}
  - {name: FLOWPLANE_DATABASE_URL_FILE, value: {{ $folder }}/database-url}
  - {name: FLOWPLANE_BROKER_URL_FILE, value: {{ $folder }}/broker-url}
  - {name: FLOWPLANE_PUBLIC_URL, value: {{ $values.addresses.public | quote }}}
  - {name: FLOWPLANE_API_URL, value: {{ $values.addresses.api | quote }}}
  - {name: FLOWPLANE_ALLOWED_HOSTS, value: {{ include "flowplane.hosts" .root | quote }}}
  - {name: FLOWPLANE_EMAIL_FROM, value: {{ $values.mail.from | quote }}}
  - {name: FLOWPLANE_OFFERING, value: {{ $values.offering }}}
  - {name: FLOWPLANE_UNDO_WINDOW_SECONDS, value: {{ int64 $values.options.undoWindowSeconds | quote }}}
  - {name: FLOWPLANE_TOKEN_LIFETIME_SECONDS, value: {{ int64 $values.options.tokenLifetimeSeconds | quote }}}
  - {name: FLOWPLANE_MFA, value: {{ ternary "on" "off" $values.options.mfa | quote }}}
  - {name: FLOWPLANE_LOG_FORMAT, value: {{ $values.options.logFormat }}}
  - {name: FLOWPLANE_API_READS, value: {{ int64 $values.options.apiReads | quote }}}
  - {name: FLOWPLANE_API_WRITES, value: {{ int64 $values.options.apiWrites | quote }}}
  - {name: FLOWPLANE_REGION_REQUESTS_PER_SECOND, value: {{ int64 $values.region.requestsPerSecond | quote }}}
  - {name: FLOWPLANE_FRONTEND_DIR, value: /srv/flowplane}
  # No engine ever runs in a pod of ours: it would be gone with the pod.
  - {name: FLOWPLANE_HOME, value: /nonexistent}
  - {name: FLOWPLANE_CACHE, value: /nonexistent}
  - {name: FLOWPLANE_JAVA_HOME, value: /nonexistent}
  - {name: FLOWPLANE_CA_CERT_FILE, value: {{ $folder }}/authority.crt}
  - {name: FLOWPLANE_CA_KEY_FILE, value: {{ $folder }}/authority.key}
  - {name: FLOWPLANE_ENGINE_IMAGE, value: {{ $values.region.engineImage | quote }}}
  - {name: FLOWPLANE_EDGE_PORT, value: {{ int $values.region.edgePort | quote }}}
  {{- if not (kindIs "invalid" $values.region.edgeRestPort) }}
  - {name: FLOWPLANE_EDGE_REST_PORT, value: {{ int $values.region.edgeRestPort | quote }}}
  {{- end }}
  {{- if or $isEngineer (eq .component "watch") }}
  - {name: FLOWPLANE_REGION_VALUES_DIR, value: {{ $folder }}/regions}
  {{- end }}
  {{- if and $values.region.kubeconfigSecret (or $isEngineer (eq .component "watch")) }}
  - {name: FLOWPLANE_KUBECONFIG_DIR, value: /etc/kubeconfigs}
  {{- end }}
  {{- if and $values.backupStore.enabled $isEngineer }}
  - {name: FLOWPLANE_BACKUP_S3_ENDPOINT, value: {{ $values.backupStore.endpoint | quote }}}
  - {name: FLOWPLANE_BACKUP_S3_REGION, value: {{ $values.backupStore.region | quote }}}
  - {name: FLOWPLANE_BACKUP_S3_BUCKET, value: {{ $values.backupStore.bucket | quote }}}
  - {name: FLOWPLANE_BACKUP_S3_PATH_STYLE, value: {{ ternary "on" "off" $values.backupStore.pathStyle | quote }}}
  - {name: FLOWPLANE_BACKUP_S3_ACCESS_KEY_FILE, value: {{ $folder }}/store-access-key}
  - {name: FLOWPLANE_BACKUP_S3_SECRET_KEY_FILE, value: {{ $folder }}/store-secret-key}
  {{- end }}
  {{- if has .component (list "worker" "clock" "watch") }}
  - {name: FLOWPLANE_PULSE_FILE, value: /run/flowplane/pulse}
  {{- end }}
{{- end }}

{{/* The files that those settings name, and nothing else. */}}
{{- define "flowplane.settingsVolume" -}}
{{- $values := .root.Values -}}
{{- $isEngineer := has .component (list "worker" "clock") -}}
- name: {{ .name | default "settings" }}
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ $values.secrets.existingSecret | quote }}
          items:
            {{- $keys := list "secret-key" "master-keys" "credential-pepper" "email-url" }}
            {{- if $values.secrets.withLicense }}{{ $keys = append $keys "camunda-license-key" }}{{ end }}
            {{- if $values.secrets.withMetricsToken }}{{ $keys = append $keys "metrics-token" }}{{ end }}
            {{- range $keys }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
      - secret:
          name: {{ get $values.database (printf "%sSecret" .role) | quote }}
          items:
            - {key: url, path: database-url}
      - secret:
          name: {{ $values.broker.existingSecret | quote }}
          items:
            - {key: url, path: broker-url}
      {{- if $isEngineer }}
      - secret:
          name: {{ $values.authority.existingSecret | quote }}
          items:
            - {key: tls.crt, path: authority.crt}
            - {key: tls.key, path: authority.key}
      {{- if $values.backupStore.enabled }}
      - secret:
          name: {{ $values.backupStore.existingSecret | quote }}
          items:
            - {key: access-key, path: store-access-key}
            - {key: secret-key, path: store-secret-key}
      {{- end }}
      {{- end }}
      {{- if or $isEngineer (eq .component "watch") }}
      - configMap:
          name: regions
          items:
            - {key: {{ printf "%s.yaml" $values.region.slug | quote }}, path: {{ printf "regions/%s.yaml" $values.region.slug | quote }}}
      {{- end }}
{{- end }}

{{/* Volumes of a process that runs on: settings, a place for its pulse, a place to render charts in. */}}
{{- define "flowplane.volumes" -}}
volumes:
  {{- include "flowplane.settingsVolume" . | nindent 2 }}
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  {{- if ne .component "web" }}
  - name: run
    emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- end }}
  {{- if and .root.Values.region.kubeconfigSecret (ne .component "web") }}
  - name: kubeconfigs
    secret:
      secretName: {{ .root.Values.region.kubeconfigSecret | quote }}
      defaultMode: 0440
  {{- end }}
{{- end }}

{{- define "flowplane.mounts" -}}
volumeMounts:
  - {name: settings, mountPath: /etc/flowplane, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if ne .component "web" }}
  - {name: run, mountPath: /run/flowplane}
  {{- end }}
  {{- if and .root.Values.region.kubeconfigSecret (ne .component "web") }}
  - {name: kubeconfigs, mountPath: /etc/kubeconfigs, readOnly: true}
  {{- end }}
{{- end }}

{{/*
New code waits until its migrations are applied, and old processes serve meanwhile. A failed migration so keeps new
processes from starting, instead of having them start on tables that they do not know.
*/}}
{{- define "flowplane.waitForMigrations" -}}
initContainers:
  - name: wait-for-migrations
    image: {{ .image | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    workingDir: /srv/flowplane
    command: [/bin/sh, -c, "until python manage.py migrate --check >/dev/null; do sleep 5; done"]
    {{- include "flowplane.environment" . | nindent 4 }}
    {{- include "flowplane.mounts" . | nindent 4 }}
    {{- include "flowplane.resources" (get .root.Values .component) | nindent 4 }}
    {{- include "flowplane.containerSecurity" . | nindent 4 }}
{{- end }}

{{/*
Progress, not life: a pulse that is too old has the process replaced. It has one without a database, a broker or a
region as well, so what they lack never restarts everybody at once.
*/}}
{{- define "flowplane.pulseProbes" -}}
startupProbe:
  exec:
    command: [python, -I, /srv/flowplane/common/pulse.py, /run/flowplane/pulse, "60"]
  periodSeconds: 5
  timeoutSeconds: 5
  # A first comparison of regions' registers waits for those that are silent.
  failureThreshold: 60
livenessProbe:
  exec:
    command: [python, -I, /srv/flowplane/common/pulse.py, /run/flowplane/pulse, {{ .seconds | quote }}]
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 3
{{- end }}
