<?php
// Makes the site at the address in the environment, and prints the application password of its one account.
$address = getenv('TARGETS_ADDRESS');
$_SERVER['HTTP_HOST'] = parse_url($address, PHP_URL_HOST) . ':' . parse_url($address, PHP_URL_PORT);
$_SERVER['REQUEST_URI'] = '/';
$_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';
$database = new mysqli('localhost', 'root', '', '', 0, getenv('TARGETS_DATABASE'));
$database->query('CREATE DATABASE wordpress CHARACTER SET utf8mb4');
define('WP_INSTALLING', true);
define('WP_SITEURL', $address);
require getenv('TARGETS_SITE') . '/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
function wp_new_blog_notification() // there is no mail here
{
}
$made = wp_install('Tests', 'perdure', 'perdure@example.org', false, '', 'not used');
update_option('permalink_structure', '/%postname%/');
update_option('timezone_string', 'America/New_York'); // where the site's time is not UTC
list($password) = WP_Application_Passwords::create_new_application_password($made['user_id'], ['name' => 'tests']);
echo $password;
